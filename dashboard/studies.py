"""The pages of studies: the newest ones with their jobs, and one study with all that is known of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import redis
from flask import Blueprint, Flask, abort, render_template, request

from dashboard import presentation
from dcm_processor.ledger.views import Page
from dcm_processor.live import add_progress
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import StudyState

PAGE_SIZE = 25


class Source(Protocol):
    """What the pages ask of the ledger."""

    def studies(self, state: str | None = None, cursor: str | None = None, limit: int = 50) -> Page: ...
    def study(self, study_id: str) -> dict[str, Any] | None: ...
    def job_summaries(self, plan_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]: ...


def install(app: Flask, ledger: Source, settings: Settings, client: redis.Redis) -> None:
    """Serve `/` and `/studies/<studyId>`; `client` says how far running jobs are."""
    pages = _Pages(ledger, settings, client)
    blueprint = Blueprint("studies", __name__)
    blueprint.add_url_rule("/", "overview", pages.overview)
    blueprint.add_url_rule("/studies/<study_id>", "study", pages.study)
    app.register_blueprint(blueprint)
    app.jinja_env.globals["present"] = presentation


class _Pages:
    def __init__(self, ledger: Source, settings: Settings, client: redis.Redis) -> None:
        self._ledger = ledger
        self._settings = settings
        self._redis = client

    def overview(self) -> str:
        state, cursor = request.args.get("state") or None, request.args.get("cursor") or None
        if state is not None and state not in list(StudyState):
            abort(400, description=f"No study state has this name; there are {', '.join(StudyState)}.")
        try:
            page = self._ledger.studies(state=state, cursor=cursor, limit=PAGE_SIZE)
        except ValueError:
            abort(400, description="This address names no page of the list; start from the newest studies.")
        jobs = self._ledger.job_summaries([study["activePlanId"] for study in page.items if study["activePlanId"]])
        now = datetime.now(UTC)
        return render_template(
            "studies.html",
            rows=[presentation.study_row(item, jobs.get(item["activePlanId"] or "", []), now) for item in page.items],
            states=list(StudyState),
            state=state,
            cursor=cursor,
            next_cursor=page.next_cursor,
            dicom_aet=self._settings.DICOM_AET,
            dicom_port=self._settings.DICOM_PORT,
        )

    def study(self, study_id: str) -> str:
        study = self._ledger.study(study_id)
        if study is None:
            abort(404)
        add_progress(self._redis, [job for plan in study["plans"] for job in plan["jobs"]])
        return render_template("study.html", study=study, now=datetime.now(UTC))

"""Studies: listed, found, shown, explained, and planned anew."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from flask import Blueprint
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from werkzeug.exceptions import Conflict, GatewayTimeout

from dcm_processor.errors import NotKnownError
from dcm_processor.live import add_progress
from dcm_processor.names import did_you_mean
from dcm_processor.vocabulary import EventKind, StudyState
from scheduler.api.lists import Asked, Cursor, Limit, bad_cursor
from scheduler.api.models import Accepted, Explained, Study, StudyPage
from scheduler.api.operation import operation
from scheduler.intake import STUDY_ID
from scheduler.parts import parts, record_and_wake
from scheduler.problems import Fault, InvalidRequestError

studies = Blueprint("studies", __name__)

JobName = Annotated[str, Field(min_length=1, max_length=64)]
_DATE = r"^([0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})$"


class StudiesQuery(Asked):
    """What `GET /studies` may be asked."""

    state: StudyState | None = Field(default=None, description="Only studies in this state.")
    cursor: Cursor = None
    limit: Limit = 50


class StudySearch(Asked):
    """What to find; all terms must hold. Terms travel in the body, since addresses end up in logs."""

    model_config = ConfigDict(alias_generator=to_camel)

    study_instance_uid: str | None = Field(
        default=None, alias="studyInstanceUID", pattern=r"^[0-9.]{1,64}$", description="StudyInstanceUID (0020,000D)."
    )
    state: StudyState | None = Field(default=None, description="Only studies in this state.")
    from_: Annotated[str, AfterValidator(lambda text: text.replace("-", ""))] | None = Field(
        default=None, alias="from", pattern=_DATE, description="The earliest StudyDate: YYYY-MM-DD or YYYYMMDD."
    )
    to: Annotated[str, AfterValidator(lambda text: text.replace("-", ""))] | None = Field(
        default=None, pattern=_DATE, description="The latest StudyDate: YYYY-MM-DD or YYYYMMDD."
    )
    modality: str | None = Field(
        default=None, pattern=r"^[A-Z0-9_ ]{1,16}$", description="A Modality (0008,0060) the study has."
    )
    job_name: JobName | None = Field(default=None, description="A job of the active plan, whatever its verdict.")
    service: str | None = Field(
        default=None, min_length=1, max_length=64, description="A service with a job in the active plan."
    )
    cursor: Cursor = None
    limit: Limit = 50


class ExplainQuery(Asked):
    """What `GET /studies/<studyId>/explain` may be asked."""

    reads: bool = Field(default=False, description="Also what each callback reads of the headers: best effort.")


class Rerun(Asked):
    """Which jobs to run again."""

    jobs: list[JobName] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="Names of jobs, which run with their dependents; none: all.",
    )
    force: bool = Field(default=False, description="Also if the study is held back since it is not complete.")


@studies.get("/studies")
@operation("List studies", answer=StudyPage, query=StudiesQuery, problems=(400,))
def list_studies(query: StudiesQuery) -> StudyPage:
    """Studies, newest first."""
    return _page("query", query.state, query.cursor, query.limit, {})


@studies.post("/studies/search")
@operation(
    "Find studies", answer=StudyPage, body=StudySearch, body_optional=True, body_limit=16384, problems=(400, 413, 415)
)
def search_studies(body: StudySearch) -> StudyPage:
    """Studies for which all terms hold, newest first."""
    terms = body.model_dump(by_alias=True, exclude_none=True, exclude={"state", "cursor", "limit"})
    return _page("body", body.state, body.cursor, body.limit, terms)


@studies.get("/studies/<study_id>")
@operation("Show a study", answer=Study, problems=(404,))
def show_study(study_id: str) -> Study:
    """The study with its plans, newest first; each with every job: verdict, state, reason, times and attempts."""
    study = known_study(study_id)
    add_progress(parts().redis, [job for plan in study["plans"] for job in plan["jobs"]])
    return Study.model_validate(study)


@studies.get("/studies/<study_id>/explain")
@operation("Explain a study", answer=Explained, query=ExplainQuery, problems=(400, 404, 410, 504))
def explain_study(study_id: str, query: ExplainQuery) -> Explained:
    """The plan the study would get now: headers are read and callbacks asked, nothing is written or enqueued."""
    known_study(study_id)
    try:
        return Explained.model_validate(parts().explain(study_id, reads=query.reads))
    except TimeoutError as error:
        raise GatewayTimeout(f"{error}; a callback may hang, or Orthanc be busy") from None


@studies.post("/studies/<study_id>/rerun")
@operation(
    "Run a study again",
    answer=Accepted,
    status=202,
    body=Rerun,
    body_optional=True,
    problems=(400, 404, 409, 413, 415),
)
def rerun_study(study_id: str, body: Rerun) -> Accepted:
    """Plan the study anew with the services of today: all jobs, or those named with their dependents.

    A plan that still runs is superseded: what it has not started never starts, what runs there ends first. A study
    that is held back is planned as it is where `force` says so; else this is a 409 that tells what is missing.
    """
    study = known_study(study_id)
    if study["holdUntil"] is not None and not body.force:
        raise Conflict(f"The study is {study['unplanned']}; `force` (`study rerun --force`) has it planned as it is")
    payload = None
    if body.jobs is not None:
        _check_names(body.jobs, study)
        payload = {"jobs": list(dict.fromkeys(body.jobs))}
    return Accepted(study_id=study_id, event_id=record_and_wake(EventKind.RERUN, study_id, payload))


def known_study(study_id: str) -> dict[str, Any]:
    """What the ledger has of the study.

    Raises NotKnownError where it has nothing.
    """
    found = parts().ledger.study(study_id) if re.fullmatch(STUDY_ID, study_id) else None
    if found is None:
        raise NotKnownError(
            "the ledger knows no such study; studies are named by Orthanc's identifier, "
            "and POST /api/v1/studies/search finds one by its StudyInstanceUID"
        )
    return found


def _page(where: str, state: StudyState | None, cursor: str | None, limit: int, terms: Mapping[str, str]) -> StudyPage:
    try:
        page = parts().ledger.studies(state, cursor, limit, terms)
    except ValueError:
        raise bad_cursor(where) from None
    return StudyPage.model_validate({"items": page.items, "nextCursor": page.next_cursor})


def _check_names(names: list[str], study: Mapping[str, Any]) -> None:
    """Refuse names that neither the study's last plan nor a service of today has."""
    known = {job["jobName"] for plan in study["plans"][:1] for job in plan["jobs"]}
    unknown = [(place, name) for place, name in enumerate(names) if name not in known]
    if unknown:
        known |= {job.name for job in parts().store.load().jobs}
    faults = [
        Fault(field=f"body.jobs.{place}", reason=f"no job has this name{did_you_mean(name, known)}")
        for place, name in unknown
        if name not in known
    ]
    if faults:
        raise InvalidRequestError(faults)

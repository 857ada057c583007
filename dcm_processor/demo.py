"""The demo: two services, two sample studies sent as a scanner sends them, and a look at what becomes of them.

The studies are the same at each run, so a second run adds nothing to Orthanc: it asks for their jobs to run again.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from dcm_processor.dicomfiles import find_dicom
from dcm_processor.environments.requirements_lock import Locks
from dcm_processor.errors import NotKnownError, PermanentError, TransientError, UsageError
from dcm_processor.notes import in_words
from dcm_processor.orthanc import Orthanc
from dcm_processor.phantoms import SampleStudy
from dcm_processor.scanner import Peer, send
from dcm_processor.store import Store
from dcm_processor.vocabulary import JobState, StudyState, Verdict

SERVICES = ("temp", "dcm2nii")
PATIENCE = 600.0
"""Seconds until jobs count as stuck, beside what a study takes to be stable: environments may have to be built."""
_BETWEEN_LOOKS = 0.25  # seconds
_LOG_TAIL = 64 * 1024  # bytes


class Api(Protocol):
    """The scheduler's HTTP API, as far as it is used here; paths are those below /api/v1.

    Raises TransientError where the scheduler does not answer, NotKnownError for a 404.
    """

    def get(self, path: str) -> Any:
        """The JSON of an answer."""

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of an answer."""

    def log(self, job_id: str) -> bytes:
        """What a job has written so far."""


@dataclass(frozen=True)
class Row:
    """One job, or a study that has none yet."""

    study: str
    job: str
    series: str
    state: str
    attempt: int
    seconds: float | None  # of work so far
    reason: str
    progress: str = ""  # in the job's own words, while it runs


@dataclass
class Followed:
    """A sample study on its way; `earlier` are the plans it had before it was sent, and that had ended."""

    sample: SampleStudy
    earlier: frozenset[str] = frozenset()
    rerun: int | None = None  # the event by which it was asked to run again
    view: dict[str, Any] = field(default_factory=dict)  # what the API last said of it

    @property
    def plan(self) -> dict[str, Any] | None:
        """Its newest plan, once there is one."""
        return next((plan for plan in self.view.get("plans", ()) if plan["planId"] not in self.earlier), None)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of that plan."""
        return list(self.plan["jobs"]) if self.plan else []

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it.

        A study whose sending paused was stable and planned before it was whole; the plan of all of it is to come then.
        """
        if self.plan is not None:
            whole = self.plan["numberOfInstances"] >= len(self.sample.files)
            return whole and self.plan["endedAt"] is not None
        if self.rerun is not None:
            return self._rerun_result is not None
        return bool(self.view.get("state") == StudyState.UNPLANNED)

    @property
    def reason(self) -> str:
        """Why it stands where it stands, as far as somebody said so."""
        if self.rerun is not None:
            return self._rerun_result or "ran before; asked to run again"
        return str(self.view.get("reason") or "")

    @property
    def _rerun_result(self) -> str | None:
        """What came of the rerun that was asked for, once it was dealt with."""
        events = (
            event for event in self.view.get("events", ()) if event["eventId"] == self.rerun and event["handledAt"]
        )
        return next((event["result"] or "dealt with" for event in events), None)

    @property
    def succeeded(self) -> bool:
        """Whether all its jobs that were to run finished, and there were some."""
        verdicts = {job["verdict"] for job in self.jobs}
        states = {job["state"] for job in self.jobs if job["state"]}
        return self.ended and states == {JobState.FINISHED} and Verdict.ERRORED not in verdicts


class Demo:
    """One run of the demo on a running stack."""

    def __init__(self, api: Api, orthanc: Orthanc, store: Store, samples: Sequence[SampleStudy]) -> None:
        self._api = api
        self._orthanc = orthanc
        self._store = store
        self.followed = [Followed(sample) for sample in samples]

    def refuse_company(self) -> None:
        """Nobody's own studies and services shall meet the demo's.

        Raises UsageError where there are others than the demo's own.
        """
        if others := sorted({service.name for service in self._store.services()} - set(SERVICES)):
            raise UsageError(
                f"other services are installed ({', '.join(others)}) and would run on the sample studies{_FORCE}"
            )
        ours = {followed.sample.study_id for followed in self.followed}
        look = len(ours) + 1
        known = {study["studyId"] for study in self._api.get(f"/studies?limit={look}")["items"]}
        if (known | set(self._orthanc.studies_page(0, look))) - ours:
            raise UsageError(f"other studies are here; the demo is for an installation without any{_FORCE}")

    def install(self, source: Path, locks: Locks) -> list[str]:
        """Install the demo's services from the folder that holds them, as init.sh does; returns those that changed.

        Raises ServiceError where one cannot be installed.
        """
        return [name for name in SERVICES if self._store.install(name, source / name, locks=locks).changed]

    def send(self, peer: Peer, on_file: Callable[[], None]) -> int:
        """Send the studies by C-STORE, and ask for a rerun of those that ran before; returns how many instances.

        Raises PeerUnavailableError where Orthanc does not take them, PermanentError where it rejects one.
        """
        before = [self._look(followed) for followed in self.followed]
        found = find_dicom(path for followed in self.followed for path in followed.sample.files)
        delivery = send(found.files, peer, lambda _file, _why: on_file())
        if delivery.rejected:
            refusal = delivery.rejected[0]
            raise PermanentError(f"{len(delivery.rejected)} instances were rejected, the first since {refusal.reason}")
        for followed, view in zip(self.followed, before, strict=True):
            if view is None or view["state"] in (StudyState.RECEIVED, StudyState.WAITING, StudyState.PLANNING):
                continue  # it will be planned when it is stable
            followed.earlier = frozenset(plan["planId"] for plan in view["plans"] if plan["endedAt"])
            if len(followed.earlier) == len(view["plans"]):  # else a demo before this one still runs
                followed.rerun = self._api.post(f"/studies/{followed.sample.study_id}/rerun")["eventId"]
        return delivery.sent

    def follow(self, seconds: float, watch: Callable[[list[Row]], None]) -> None:
        """Look at the studies until all have ended, telling `watch` at each look.

        Raises TransientError after `seconds`, with what was waited for.
        """
        deadline = time.monotonic() + seconds
        while True:
            trouble = ""
            try:
                for followed in self.followed:
                    if not followed.ended:
                        followed.view = self._look(followed) or {}
                building = self._building()
            except TransientError as error:  # it may be restarting; what is planned goes on meanwhile
                trouble, building = str(error), set()
            rows = rows_of(self.followed, building)
            watch(rows)
            if all(followed.ended for followed in self.followed):
                return
            if time.monotonic() > deadline:
                open_rows = [row for row in rows if row.state not in _ENDED]
                waiting = "; ".join(
                    " ".join(filter(None, (r.study, r.job, r.series, r.state, r.reason))) for r in open_rows
                )
                raise TransientError(f"not ended after {seconds:.0f} s: {trouble or waiting}")
            time.sleep(_BETWEEN_LOOKS)

    def log_worth_reading(self) -> tuple[dict[str, Any], str] | None:
        """A job and what it wrote: one that failed, else the last that finished with something to say."""
        jobs = [job for followed in self.followed for job in followed.jobs if job["attempts"]]
        failed = [job for job in jobs if job["state"] == JobState.FAILED]
        for job in failed or reversed(jobs):
            if text := self._api.log(job["jobId"])[-_LOG_TAIL:].decode(errors="replace").strip():
                return job, text
        return None

    def _look(self, followed: Followed) -> dict[str, Any] | None:
        try:
            return dict(self._api.get(f"/studies/{followed.sample.study_id}"))
        except NotKnownError:
            return None

    def _building(self) -> set[str]:
        """The services whose environments are being built; asked only while a job of theirs runs."""
        if not any(job["state"] == JobState.STARTED for followed in self.followed for job in followed.jobs):
            return set()
        return {
            item["name"] for item in self._api.get("/services")["items"] if item["environment"]["state"] == "building"
        }


_FORCE = "; `--force` runs it all the same"
_ENDED = frozenset(
    {*(state.value for state in JobState if state.ended), *(verdict.value for verdict in Verdict), "unplanned"}
)


def rows_of(followed: Iterable[Followed], building: set[str]) -> list[Row]:
    """What there is to see of the studies now."""
    rows = []
    for study in followed:
        name = f"{study.sample.modality} {study.sample.description}"
        if study.plan is None:
            state = "sent" if study.rerun is not None else str(study.view.get("state", "sent"))
            rows.append(Row(name, "", "", state, 0, None, study.reason or _AWAITED.get(state, "")))
        rows.extend(_row(name, study.sample.series_names, job, building) for job in study.jobs)
    return rows


_AWAITED = {
    "sent": "waiting until nothing more comes for it",
    StudyState.RECEIVED.value: "waiting to be planned",
    StudyState.PLANNING.value: "asking the services",
}


def _row(study: str, series: Mapping[str, str], job: Mapping[str, Any], building: set[str]) -> Row:
    attempt = job["attempts"][-1] if job["attempts"] else None
    return Row(
        study=study,
        job=job["jobName"],
        series=series.get(job["seriesId"] or "", job["seriesId"] or ""),
        state=job["state"] or job["verdict"],
        attempt=job["attempt"],
        seconds=_seconds(attempt) if attempt else None,
        reason=_reason(job, attempt, building),
        progress=in_words(attempt),
    )


def _reason(job: Mapping[str, Any], attempt: Mapping[str, Any] | None, building: set[str]) -> str:
    if job["state"] == JobState.STARTED and job["service"] in building:
        return f"building the environment of {job['service']}"
    if job["state"] in (JobState.WAITING, JobState.QUEUED, JobState.STARTED):
        return ""  # the ledger's reason is still that its callback accepted
    return str(job["reason"] or (attempt and attempt["error"]) or "")


def _seconds(attempt: Mapping[str, Any]) -> float | None:
    if attempt["startedAt"] is None:
        return None
    end = datetime.fromisoformat(attempt["endedAt"]) if attempt["endedAt"] else datetime.now(UTC)
    return max(0.0, (end - datetime.fromisoformat(attempt["startedAt"])).total_seconds())

"""One rehearsal: services in a store of its own, studies out of a folder, plans run to their end, job after job.

    folder ▶ studies ▶ headers ▶ callbacks ▶ plan ▶ advance ▶ worker functions ▶ results

The store, the copies of the DICOM files and the work of jobs lie in a temporary folder: what is of one study goes when
that has ended, the rest at the end; the environments stay (`home`). Each job has one attempt: what is to be tried again
on the platform ends here as it is.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dcm_processor import identity, service_tree
from dcm_processor.advance import Node, advance
from dcm_processor.judgement import Tries, judge
from dcm_processor.manifest import Fault, Retry
from dcm_processor.outcome import Outcome
from dcm_processor.plan import Plan, PlannedJob, make_plan, order
from dcm_processor.plan_view import PlanView, added_params, result_folder
from dcm_processor.registry import ServiceRegistry
from dcm_processor.rehearsal.children import Question, asking, run_function
from dcm_processor.rehearsal.home import cache_folder
from dcm_processor.rehearsal.studies import Study, lay_out
from dcm_processor.settings import Settings
from dcm_processor.store import SCRIPT, Store
from dcm_processor.vocabulary import JobState, Verdict

NO_ORTHANC = "http://orthanc.invalid"
"""What a job finds as ORTHANC_REST_URL: there is none, and nothing answers by that name (RFC 6761)."""
_ONCE = Retry(max=0, lost=0)


@dataclass(frozen=True)
class Job:
    """A job of a study and what became of it; `state` is its verdict where it was not scheduled."""

    planned: PlannedJob
    state: str
    reason: str
    outcome: Outcome | None = None
    seconds: float | None = None  # of its function
    files: tuple[tuple[str, int], ...] = ()  # what it left: path within `folder`, bytes
    folder: Path | None = None

    @property
    def job_name(self) -> str:
        return self.planned.key.job_name

    @property
    def series_id(self) -> str | None:
        return self.planned.key.series_id

    @property
    def is_wrong(self) -> bool:
        """Whether something went wrong in it."""
        return self.state in (Verdict.ERRORED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Rehearsed:
    """A study with all jobs of its plan, in plan order."""

    study: Study
    headers: Mapping[str, Any]
    jobs: tuple[Job, ...]


class Display:
    """What is told of a rehearsal while it goes on; this one shows nothing."""

    def planned(self, study: Study, plan: Plan) -> None:
        """The callbacks were asked."""

    def begins(self, job: PlannedJob) -> None:
        """A job is next."""

    def building(self, job: PlannedJob) -> None:
        """Its environment is built first."""

    def log(self, text: str) -> None:
        """The job printed something."""

    def ended(self, job: Job) -> None:
        """A job has its end, or will never run."""

    def finished(self, study: Rehearsed) -> None:
        """All jobs of a study have."""


@dataclass
class Bench:
    """Where services run; a context, which leaves nothing but the results.

    `results` is the folder they are kept in (as DATA/results is on the platform); None: they go with the rest.
    """

    settings: Settings
    display: Display = field(default_factory=Display)
    results: Path | None = None

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dcm-processor-")).resolve()
        self.own = self.settings.model_copy(
            update={
                "MODE": "local",
                "BASEDIR": cache_folder(),
                **{key: self.folder / key.lower() for key in ("REGISTRY", "MODULES", "DATA", "LOGS")},
                "ORTHANC_REST_URL": NO_ORTHANC,
                "ORTHANC_REST_PASSWORD": "none",
            }
        )
        self.store = Store.of(self.own)
        self.kept = self.results or self.own.data / "results"
        self.attempts = self.kept / ".attempts"  # where a rename makes results of it: TMPDIR may be another disk
        self._paths: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        with suppress(OSError):  # a job may have left what cannot be deleted
            service_tree.remove(self.folder)

    def install(self, sources: Mapping[str, Path]) -> list[Fault]:
        """Install services; returns what is odd.

        Raises ServiceError, ManifestError, as `Store.install_all` does.
        """
        installed = self.store.install_all(sources)
        odd = [fault for each in installed.values() for fault in each.warnings]
        for name, source in sources.items():
            digest = installed[name].digest
            for part, place in (
                ("registry", self.store.registry_folder(name, digest)),
                ("module", self.store.module_folder(name, digest)),
            ):
                self._paths[str(place)] = str(source / part)
            if (source / "module" / SCRIPT).is_file():
                reason = "is not run here: what it would install must be on this machine"
                odd.append(Fault(name, f"module/{SCRIPT}", "", reason))
        return odd

    def rehearse(self, study: Study) -> Rehearsed:
        """Plan the study with what is installed, and run the plan to its end.

        Raises PermanentError for DICOM files that cannot be read, OSError where the disk fails, or takes no results.
        """
        self.attempts.mkdir(parents=True, exist_ok=True)  # fails, if it does, before hours of work
        try:
            return self._rehearse(study)
        finally:
            for place in (self.attempts, self.own.data, self.own.logs, self.folder / "scratch"):
                with suppress(OSError):  # it is not there, or a job has left what cannot be deleted
                    service_tree.remove(place)

    def _rehearse(self, study: Study) -> Rehearsed:
        registry = self.store.load()
        selected = self.own.HEADER_FIELDS
        headers = study.headers(selected)
        ordered = order(registry)
        folders = self.store.registry_folders({job.service: job.digest for job in ordered})
        with asking() as ask:
            said = ask(Question(ordered, headers, selected, folders, self.own.CALLBACK_TIMEOUT))
        plan = make_plan(registry, headers["seriesIds"], said)
        self.display.planned(study, plan)
        rehearsed = Rehearsed(study, headers, _Run(self, registry, study, headers, plan).run())
        self.display.finished(rehearsed)
        return rehearsed

    def readable(self, text: str) -> str:
        """The text, with the places of the services' code as their author knows them."""
        for ours, theirs in self._paths.items():
            text = text.replace(ours, theirs)
        return text


class _Run:
    """A plan that runs."""

    def __init__(
        self, bench: Bench, registry: ServiceRegistry, study: Study, headers: Mapping[str, Any], plan: Plan
    ) -> None:
        self._bench = bench
        self._registry = registry
        self._study = study
        self._headers = headers
        self._planned = {identity.job_id(study.plan_id, *_key(each)): each for each in plan.jobs}
        ids = {each.key: job_id for job_id, each in self._planned.items()}
        self._rows = {
            job_id: _row(study, job_id, each, [ids[key] for key in each.dependencies])
            for job_id, each in self._planned.items()
        }
        self._ended: dict[str, Job] = {}
        self._dicom: Path | None = None

    def run(self) -> tuple[Job, ...]:
        nodes = [
            _node(job_id, each, self._rows[job_id])
            for job_id, each in self._planned.items()
            if each.verdict is Verdict.SCHEDULED
        ]
        for job_id, each in self._planned.items():
            if each.verdict is not Verdict.SCHEDULED:
                self._end(job_id, Job(each, str(each.verdict), each.reason))
        while True:
            states = {
                job_id: JobState(self._ended[job_id].state) for job_id in self._ended if self._is_scheduled(job_id)
            }
            step = advance(nodes, states)
            for job_id, reason in step.skipped:
                self._end(job_id, Job(self._planned[job_id], str(JobState.SKIPPED), reason))
            if step.ready:
                self._end(step.ready[0], self._run_job(step.ready[0]))
            elif not step.skipped:
                return tuple(self._ended[job_id] for job_id in self._planned)

    def _is_scheduled(self, job_id: str) -> bool:
        return self._planned[job_id].verdict is Verdict.SCHEDULED

    def _end(self, job_id: str, job: Job) -> None:
        self._ended[job_id] = job
        if self._is_scheduled(job_id):
            self._rows[job_id] |= {"state": job.state, "reason": job.reason or None}
        self._bench.display.ended(job)

    def _run_job(self, job_id: str) -> Job:
        planned, bench = self._planned[job_id], self._bench
        bench.display.begins(planned)
        settings = bench.own
        if self._dicom is None:
            self._dicom = lay_out(self._study, settings.data)
        attempt = identity.attempt_id(job_id, 1)
        left, log = bench.attempts / attempt, settings.logs / f"{attempt}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began: list[float] = []

        def on_message(message: dict[str, Any]) -> None:
            if "building" in message:
                bench.display.building(planned)
            elif "running" in message:
                began.append(time.monotonic())

        outcome = run_function(
            self._wish(job_id, left, log), on_message, lambda text: bench.display.log(bench.readable(text))
        )
        seconds = time.monotonic() - began[0] if began else None
        if bench.results is not None:
            self._keep_log(planned, log)
        judged = judge(outcome, Tries(), _ONCE, 0)
        state = judged.job if judged.job.ended else JobState.FAILED
        kept = self._keep(job_id, left, state)
        reason = judged.reason if judged.job.ended else f"{outcome.error or outcome.exitReason}"
        return Job(planned, str(state), bench.readable(reason or ""), outcome, seconds, _files(kept), kept)

    def _wish(self, job_id: str, left: Path, log: Path) -> dict[str, Any]:
        """What `worker.rehearsal` is to run: the same as the order of an attempt."""
        bench, planned, row = self._bench, self._planned[job_id], self._rows[job_id]
        view = PlanView(list(self._rows.values()))
        series_id = planned.key.series_id
        dicom = self._dicom if series_id is None else (self._dicom or Path()) / series_id
        settings, job = planned.job.settings, planned.job
        current = {each.service: each.digest for each in self._registry.jobs if each.service != job.service}
        return {
            "settings": bench.own.model_dump(mode="json"),
            "service": job.service,
            "digest": job.digest,
            "module": str(bench.store.module_folder(job.service, job.digest)),
            "siblings": {name: str(bench.store.module_folder(name, digest)) for name, digest in current.items()},
            "pythonVersion": settings.python_version,
            "timeout": settings.timeout,
            "memory": settings.memory,
            "log": str(log),
            "scratch": str(bench.folder / "scratch" / left.name),
            "task": {
                "function": settings.worker,
                "jobName": settings.job_name,
                "headers": self._headers,
                "selected": list(bench.own.HEADER_FIELDS),
                "seriesId": series_id,
                "params": settings.params,
                "addedParams": added_params(view.injected(), view.series_jobs, series_id),
                "jobServices": {name: rows[0]["service"] for name, rows in view.by_name.items()},
                "inputs": self._places(view.inputs(row)),
                "outcomes": view.outcomes(row),
                "dicomDir": str(dicom),
                "outputDir": str(left),
                "studyId": self._study.study_id,
                "planId": self._study.plan_id,
                "attempt": 1,
            },
        }

    def _places(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._places(folder) if isinstance(folder, dict) else str(self._place(folder))
            for name, folder in inputs.items()
        }

    def _place(self, folder: str) -> Path:
        return self._bench.kept / Path(folder).relative_to("results")

    def _keep_log(self, planned: PlannedJob, log: Path) -> None:
        name = ".".join(part for part in _key(planned) if part)
        target = self._bench.kept / "logs" / self._study.study_id / f"{name}.log"
        target.parent.mkdir(parents=True, exist_ok=True)
        with log.open(encoding="utf-8", errors="replace") as lines:
            text = lines.read()  # 10 MB at most
        target.write_text(self._bench.readable(text), encoding="utf-8")

    def _keep(self, job_id: str, left: Path, state: JobState) -> Path:
        """Put what a finished job left where its results belong; of another it stays where it is."""
        if state is not JobState.FINISHED:
            return left
        target = self._place(result_folder(self._rows[job_id]))
        target.parent.mkdir(parents=True, exist_ok=True)
        service_tree.move(left, target)
        return target


def _key(planned: PlannedJob) -> tuple[str, str | None]:
    return planned.key.job_name, planned.key.series_id


def _row(study: Study, job_id: str, planned: PlannedJob, dependencies: Sequence[str]) -> dict[str, Any]:
    """A job as `plan_view.PlanView` looks at it."""
    scheduled = planned.verdict is Verdict.SCHEDULED
    return {
        "job_id": job_id,
        "study_id": study.study_id,
        "job_name": planned.key.job_name,
        "series_id": planned.key.series_id,
        "service": planned.job.service,
        "settings": planned.job.settings.to_json(),
        "injected": planned.outcome.injected if planned.outcome else {},
        "dependencies": dependencies,
        "verdict": str(planned.verdict),
        "state": str(JobState.WAITING) if scheduled else None,
        "reason": planned.reason,
    }


def _node(job_id: str, planned: PlannedJob, row: Mapping[str, Any]) -> Node:
    settings = planned.job.settings
    return Node(job_id, settings.job_name, settings.stage, tuple(row["dependencies"]), settings.on_dependency_failure)


def _files(folder: Path) -> tuple[tuple[str, int], ...]:
    """The files in a folder, by path, with their sizes."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                path = Path(parent, name)
                found.append((str(path.relative_to(folder)), path.lstat().st_size))
    return tuple(sorted(found))

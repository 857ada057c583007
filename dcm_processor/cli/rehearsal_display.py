"""How `service test` and `run` show what goes on, and what came of it."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from dcm_processor.cli.output import printable, printable_log
from dcm_processor.dicomfiles import Refusal
from dcm_processor.manifest import Fault
from dcm_processor.plan import Plan, PlannedJob
from dcm_processor.rehearsal.bench import Display, Job, Rehearsed
from dcm_processor.rehearsal.studies import Study
from dcm_processor.vocabulary import JobState, Verdict

_COLOURS = {JobState.FINISHED: "green", JobState.FAILED: "red", Verdict.ERRORED: "red", JobState.CANCELLED: "yellow"}
_NAMED = 20
"""Files of a job, and DICOM files that were rejected, that are named."""


def tidy_up_when_ended() -> None:
    """Have SIGTERM and a closed terminal end this program as an error does: with its jobs and copies of DICOM gone."""
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) is not signal.SIG_IGN:  # as by nohup
            signal.signal(end, lambda number, _: sys.exit(128 + number))


class LogDisplay(Display):
    """Everything, in the order in which it happens: on stdout, or (`err`) on stderr."""

    def __init__(self, *, err: bool) -> None:
        self._err = err
        self._in_line = False  # the log's last line has no end yet

    def planned(self, study: Study, plan: Plan) -> None:
        self._say(
            f"study {study.study_id}: {len(study.series)} series, {study.number_of_instances} instances", bold=True
        )
        for each in plan.jobs:
            if each.outcome is not None:
                self._callback(each)

    def _callback(self, job: PlannedJob) -> None:
        said = job.outcome
        assert said is not None
        answer = "failed" if said.error is not None else str(said.applies)
        injected = f", {printable(json.dumps(said.injected, ensure_ascii=False))}" if said.injected else ""
        self._say(f"callback of {named(job)}: {answer}{injected}")
        for text in (said.output, said.error, said.traceback):
            if text:
                self._say(_indented(text), dim=True)

    def begins(self, job: PlannedJob) -> None:
        self._say(f"job {named(job)}", bold=True)

    def building(self, job: PlannedJob) -> None:
        self._say(f"  building the environment of service {job.job.service}", dim=True)

    def log(self, text: str) -> None:
        click.echo(printable_log(text), nl=False, err=self._err)
        self._in_line = not text.endswith("\n") if text else self._in_line

    def ended(self, job: Job) -> None:
        words = [f"{named(job.planned)}: {job.state}"]
        if job.seconds is not None:
            words.append(f"{job.seconds:.1f} s")
        if job.outcome is not None and "peakMemory" in job.outcome.details:
            words.append(f"peak memory {size(job.outcome.details['peakMemory'])}")
        if job.state != JobState.FINISHED and job.reason:
            words.append(printable(job.reason))
        self._say(", ".join(words), fg=_COLOURS.get(job.state))  # type: ignore[call-overload]
        if job.outcome is not None and (tail := job.outcome.details.get("buildLog")):
            self._say(_indented(str(tail)), dim=True)
        for name, length in job.files[:_NAMED]:
            self._say(f"  {printable(name)}  {size(length)}")
        if len(job.files) > _NAMED:
            self._say(f"  {len(job.files) - _NAMED} more files")
        if job.outcome is not None:
            for result in job.outcome.results:
                self._say(f"  {printable(json.dumps(result.to_json(), ensure_ascii=False))}")

    def _say(self, text: str, **style: Any) -> None:
        if self._in_line:
            click.echo(err=self._err)
            self._in_line = False
        click.secho(text, err=self._err, **style)


def named(job: PlannedJob) -> str:
    """A job, with the beginning of its series' identifier, as in `study show`."""
    return f"{job.key.job_name} of series {job.key.series_id[:8]}" if job.key.series_id else job.key.job_name


def size(number: float) -> str:
    """`812 bytes`, `1.5 MB`."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = 0
    while number >= 1000 and power < len(units) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.0f} {units[0]}" if not power else f"{number:.3g} {units[power]}"


def tell(warnings: Sequence[Fault], rejected: Sequence[Refusal]) -> None:
    """What is odd with the services, and which DICOM files cannot be used."""
    for warning in warnings:
        click.secho(f"warning: {printable(warning)}", err=True, fg="yellow")
    for refusal in rejected[:_NAMED]:
        click.secho(f"left out: {printable(refusal.name)}: {refusal.reason}", err=True, fg="yellow")
    if len(rejected) > _NAMED:
        click.secho(f"left out: {len(rejected) - _NAMED} more files", err=True, fg="yellow")


def document(studies: Sequence[Rehearsed], warnings: Sequence[Fault], rejected: Sequence[Refusal]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "studies": [
            {
                "studyId": each.study.study_id,
                "planId": each.study.plan_id,
                "numberOfSeries": len(each.study.series),
                "numberOfInstances": each.study.number_of_instances,
                "jobs": [_job(job) for job in each.jobs],
            }
            for each in studies
        ],
        "warnings": [str(warning) for warning in warnings],
        "rejected": [{"file": refusal.name, "reason": refusal.reason} for refusal in rejected],
    }


def _job(job: Job) -> dict[str, Any]:
    said, outcome = job.planned.outcome, job.outcome
    details: Mapping[str, Any] = outcome.details if outcome else {}
    return {
        "jobName": job.job_name,
        "seriesId": job.series_id,
        "service": job.planned.job.service,
        "version": job.planned.job.digest,
        "verdict": str(job.planned.verdict),
        "state": str(job.state),
        "reason": job.reason or None,
        "injected": said.injected if said else {},
        "callbackOutput": said.output if said else "",
        "callbackTraceback": said.traceback if said else None,
        "exitReason": str(outcome.exitReason) if outcome else None,
        "traceback": outcome.traceback if outcome else None,
        "seconds": None if job.seconds is None else round(job.seconds, 3),
        "peakMemory": details.get("peakMemory"),
        "buildLog": details.get("buildLog"),
        "folder": str(job.folder) if job.folder else None,
        "files": [{"path": name, "size": length} for name, length in job.files],
        "results": [result.to_json() for result in outcome.results] if outcome else [],
    }


def _indented(text: str) -> str:
    return "\n".join(f"  {printable(line)}" for line in text.rstrip().splitlines())

"""`dcm-processor run`: a whole chain of services over a folder of DICOM, with nothing running."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json, show_table
from dcm_processor.cli.rehearsal_display import document, named, size, tell, tidy_up_when_ended
from dcm_processor.errors import UsageError
from dcm_processor.plan import Plan, PlannedJob
from dcm_processor.rehearsal.bench import Display, Job, Rehearsed
from dcm_processor.rehearsal.studies import Study
from dcm_processor.rehearsal.whole import Request, rehearsal
from dcm_processor.vocabulary import Verdict

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_FOLDER)
@click.option(
    "--services", "-s", type=_FOLDER, multiple=True, required=True, help="A service's folder; more may follow."
)
@click.option(
    "-o",
    "--output",
    type=_FOLDER,
    default=Path("dcm-processor-results"),
    show_default=True,
    help="A new folder for results and logs.",
)
@json_option
def run(paths: Sequence[Path], services: Sequence[Path], output: Path, *, as_json: bool) -> None:
    """Plan and run services together over files, folders or zip archives of DICOM, as the platform would.

    Every study found gets a plan: stages, dependencies, levels, sortPosition and injected parameters are as on the
    platform, by the same code. Jobs run one after the other, each with one attempt. What they leave is in
    OUTPUT/<studyId>/<jobName>[/<seriesId>], what they print in OUTPUT/logs. A service's folder among PATHS is one of
    the services.

    Exit status 1 where a callback or a job failed.

    \b
    Examples:
      dcm-processor run scans --services services/dcm2nii volume -o out
      dcm-processor run study.zip --services volume --json
    """
    beside = [path for path in paths if (path / "registry" / "settings.json").exists()]
    dicom = [path for path in paths if path not in beside]
    if not dicom:
        raise UsageError("no DICOM is named: `dcm-processor run FOLDER --services DIR…`")
    tidy_up_when_ended()
    request = Request([*services, *beside], dicom, results=output)
    with (
        _Shown(Console(stderr=True)) as shown,
        rehearsal(request, settings(), shown, shown.looked_at) as ready,
    ):
        tell(ready.warnings, ready.rejected)
        shown.expect(len(ready.studies.found))
        studies = list(ready)
    if as_json:
        show_json(document(studies, ready.warnings, ready.rejected))
    else:
        _report(studies)
    raise SystemExit(1 if any(job.is_wrong for study in studies for job in study.jobs) else 0)


class _Shown(Display):
    """A bar of studies and one of the study's jobs; nothing where there is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._studies = self._progress.add_task("looking through the files", total=None)
        self._jobs = self._progress.add_task("", total=0, visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._progress.stop()

    def looked_at(self) -> None:
        """Another file was found."""
        self._progress.advance(self._studies)

    def expect(self, studies: int) -> None:
        """All files are found."""
        self._progress.reset(self._studies, total=studies, description="studies")

    def finished(self, study: Rehearsed) -> None:  # noqa: ARG002 - the base's signature
        self._progress.advance(self._studies)

    def planned(self, study: Study, plan: Plan) -> None:  # noqa: ARG002 - the base's signature
        scheduled = sum(each.verdict is Verdict.SCHEDULED for each in plan.jobs)
        self._progress.reset(self._jobs, total=scheduled, visible=True, description="jobs")

    def begins(self, job: PlannedJob) -> None:
        self._describe(named(job))

    def building(self, job: PlannedJob) -> None:
        self._describe(f"{named(job)}: building its environment")

    def ended(self, job: Job) -> None:
        if job.planned.verdict is Verdict.SCHEDULED:
            self._progress.advance(self._jobs)

    def _describe(self, text: str) -> None:
        self._progress.update(self._jobs, description=text)


def _report(studies: Sequence[Rehearsed]) -> None:
    rows: list[Sequence[Any]] = [
        (
            study.study.study_id,
            named(job.planned),
            str(job.state),
            "" if job.seconds is None else f"{job.seconds:.1f} s",
            _left(job),
            job.reason if job.state != "finished" else "",
        )
        for study in studies
        for job in study.jobs
    ]
    show_table(("STUDY", "JOB", "STATE", "TIME", "LEFT", "WHY"), rows, "no service has a job")


def _left(job: Job) -> str:
    count = len(job.files)
    return f"{count} file{'s' * (count != 1)}, {size(sum(length for _, length in job.files))}" if count else ""

"""`dcm-processor service test`."""

from collections.abc import Sequence
from pathlib import Path

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.cli.rehearsal_display import LogDisplay, document, tell, tidy_up_when_ended
from dcm_processor.cli.service.document import FOLDER
from dcm_processor.rehearsal.whole import Request, rehearsal
from dcm_processor.vocabulary import JobState


@click.command()
@click.argument("path", type=FOLDER)
@click.option("--dicom", type=FOLDER, multiple=True, help="DICOM to run it on; without it two tiny studies.")
@click.option("--with", "others", type=FOLDER, multiple=True, help="Another service's folder, for `dependsOn`.")
@click.option("--name", help="The service's name; without it what its functions are called by.")
@click.option("-o", "--output", type=FOLDER, help="A new folder to keep in what its jobs leave.")
@json_option
def test(
    path: Path, dicom: Sequence[Path], others: Sequence[Path], name: str | None, output: Path | None, *, as_json: bool
) -> None:
    """Run a service on a folder of DICOM as the platform would, with nothing running: no Orthanc, no Redis, no Docker.

    Its callback gets the headers that the study would have in Orthanc; its worker function runs in its own environment,
    which is built if need be and kept, within its time-out and memory. What it prints is shown as it comes, then what
    it left, how long it took and its peak memory. A job has one attempt here. DICOM may be files, folders and zip
    archives; each study in it is run.

    Exit status 1 where a callback or a job failed, or no job of the service ran to its end.

    \b
    Examples:
      dcm-processor service test volume
      dcm-processor service test volume --dicom scans/patient1 -o out
      dcm-processor service test volume --with services/dcm2nii --dicom study.zip --json
    """
    tidy_up_when_ended()
    request = Request([path, *others], dicom, name, output)
    with rehearsal(request, settings(), LogDisplay(err=as_json)) as ready:
        tell(ready.warnings, ready.rejected)
        studies = list(ready)
        jobs = [job for study in studies for job in study.jobs]
        if as_json:
            show_json(document(studies, ready.warnings, ready.rejected))
    if any(job.is_wrong for job in jobs):
        raise SystemExit(1)
    if not any(job.state == JobState.FINISHED for job in jobs):
        click.secho("no job ran: see above why; services that it depends on are named by --with", err=True, fg="yellow")
        raise SystemExit(1)

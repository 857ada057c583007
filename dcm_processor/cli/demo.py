"""`dcm-processor demo`: see it work, on sample studies."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dcm_processor.cli import demo_display as display
from dcm_processor.cli.access import Access
from dcm_processor.cli.client import Client
from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, show_json
from dcm_processor.demo import PATIENCE, Demo, rows_of
from dcm_processor.environments.requirements_lock import Locks
from dcm_processor.errors import UsageError
from dcm_processor.orthanc import Orthanc
from dcm_processor.phantoms import make_samples
from dcm_processor.scanner import Peer
from dcm_processor.settings import Settings, checkout_from_environment
from dcm_processor.stack_state import DEMO_STABLE_AGE, State
from dcm_processor.store import Store

_LOG_LINES = 12


@click.command("demo")
@click.option("--force", is_flag=True, help="Also where other studies or services are.")
@click.option(
    "--files",
    "folder",
    type=click.Path(path_type=Path),
    help="Only write the sample studies' files into this new folder.",
)
@click.option("--started-by-us", is_flag=True, hidden=True, help="The stack was started for this demo.")
@json_option
def demo(*, force: bool, folder: Path | None, started_by_us: bool, as_json: bool) -> None:
    """Install two services, send two sample studies over DICOM, follow their jobs, and show what they left.

    Run it again as often as you like: the same studies run again. Exit status 1 where a job did not finish.

    \b
    Examples:
      dcm-processor demo
      dcm-processor demo --json
    """
    if folder is not None:
        _write_files(folder, as_json=as_json)
        return
    chosen = settings()
    state = State.read(chosen)
    if state is not None:
        chosen = state.as_started(chosen)
    # Beside a document on stdout, what goes on is told on stderr.
    console = _console(stderr=as_json)
    with (
        tempfile.TemporaryDirectory(prefix="dcm-processor-demo-") as drawn,
        Orthanc.of(chosen) as orthanc,
        display.Watched(console) as watched,
    ):
        watched.doing("drawing the sample studies")
        samples = make_samples(Path(drawn))
        run = Demo(Client(Access.here(chosen)), orthanc, Store.of(chosen), samples)
        if not force:
            run.refuse_company()
        watched.doing("installing services")
        run.install(checkout_from_environment() / "services", Locks(chosen, os.environ))
        watched.step("services temp and dcm2nii are installed")
        sent = run.send(Peer(*chosen.dicom_address, chosen.DICOM_AET), watched.counting("sending the sample studies"))
        watched.step(
            f"{sent} instances of {len(samples)} studies sent by C-STORE; "
            f"a new study is stable after {chosen.STABLE_AGE} s"
        )
        run.follow(PATIENCE + chosen.STABLE_AGE, watched.rows)
        took = watched.seconds
    if as_json:
        show_json(_document(run, chosen))
    else:
        _show(console, run, chosen, took, stays=started_by_us)
    raise SystemExit(0 if all(followed.succeeded for followed in run.followed) else 1)


def _write_files(folder: Path, *, as_json: bool) -> None:
    try:
        folder.mkdir(parents=True)
        samples = make_samples(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; name a folder that is not there yet") from None
    if as_json:
        show_json([{"Modality": sample.modality, "files": [str(file) for file in sample.files]} for sample in samples])
        return
    for sample in samples:
        where = sample.files[0].parents[1]
        click.echo(f"{sample.modality} {sample.description}: {len(sample.files)} instances in {where}")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console.width = max(console.width, 200)
    return console


def _show(console: Console, demo: Demo, chosen: Settings, took: float, *, stays: bool) -> None:
    console.print(display.heading(f"what ran, in {took:.0f} s"))
    console.print(display.table(rows_of(demo.followed, set())))
    # Long lines stay whole, so that a path can be copied.
    if results := _outputs(demo, chosen):
        console.print(display.outputs(_results(chosen), results), soft_wrap=True)
    if found := demo.log_worth_reading():
        job, text = found
        console.print(display.log(job["jobName"], text, _LOG_LINES), soft_wrap=True)
    console.print(display.pages(_pages(chosen)))
    usual = settings().STABLE_AGE
    if stays and usual != DEMO_STABLE_AGE:
        local = "--local " if chosen.MODE == "local" else ""
        console.print(
            f"\nThe stack runs on, with STABLE_AGE {DEMO_STABLE_AGE} for the demo instead of {usual}; "
            f"`bash run.sh {local}--down` stops it, and the next start takes yours.",
            soft_wrap=True,
        )


def _results(chosen: Settings) -> Path:
    return chosen.data / "results"


def _outputs(demo: Demo, chosen: Settings) -> dict[str, list[Path]]:
    """The folders of the studies' results, with the files in them."""
    names = [followed.sample.study_id for followed in demo.followed]
    found = {name: [file for file in sorted((_results(chosen) / name).rglob("*")) if file.is_file()] for name in names}
    return {name: files for name, files in found.items() if files}


def _pages(chosen: Settings) -> Sequence[tuple[str, str, str]]:
    secrets = chosen.secrets
    admin = "user admin, password in {}"
    return [
        ("studies", f"{chosen.dashboard_page}/", admin.format(display.near(secrets / "dashboard_password"))),
        ("queues", f"{chosen.dashboard_page}/rq", "the same"),
        ("images", f"{chosen.orthanc_page}/", admin.format(display.near(secrets / "orthanc_admin_password"))),
    ]


def _document(demo: Demo, chosen: Settings) -> dict[str, Any]:
    return {
        "succeeded": all(followed.succeeded for followed in demo.followed),
        "studies": [followed.view for followed in demo.followed],
        "jobs": [asdict(row) for row in rows_of(demo.followed, set())],
        "outputs": [str(file) for files in _outputs(demo, chosen).values() for file in files],
    }

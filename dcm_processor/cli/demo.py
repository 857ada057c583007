"""`dcm-processor demo`: see it work, on sample studies."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from dcm_processor.cli import demo_display as display
from dcm_processor.cli.client import Client
from dcm_processor.demo import PATIENCE, Demo, rows_of
from dcm_processor.local.state import State
from dcm_processor.orthanc import Orthanc
from dcm_processor.phantoms import make_samples
from dcm_processor.scanner import Peer
from dcm_processor.settings import Settings, checkout_from_environment
from dcm_processor.store import Store

_LOG_LINES = 12


@click.command("demo")
@click.option("--force", is_flag=True, help="Also where other studies or services are.")
@click.option("--started-by-us", is_flag=True, hidden=True, help="The stack was started for this demo.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document on stdout.")
def demo(*, force: bool, started_by_us: bool, as_json: bool) -> None:
    """Install two services, send two sample studies over DICOM, follow their jobs, and show what they left.

    Run it again as often as you like: the same studies run again. Exit status 1 where a job did not finish.
    """
    settings = Settings.load(checkout_from_environment())
    state = State.read(settings)
    stable_age = state.stableAge if state else settings.STABLE_AGE
    # Beside a document on stdout, what goes on is told on stderr.
    console = _console(stderr=as_json)
    with (
        tempfile.TemporaryDirectory(prefix="dcm-processor-demo-") as folder,
        Orthanc(settings.orthanc_url, settings.ORTHANC_REST_USERNAME, settings.orthanc_password) as orthanc,
        display.Watched(console) as watched,
    ):
        watched.doing("drawing the sample studies")
        samples = make_samples(Path(folder))
        run = Demo(Client(settings), orthanc, Store.of(settings), samples)
        if not force:
            run.refuse_company()
        watched.doing("installing services")
        run.install(checkout_from_environment() / "services")
        watched.step("services temp and dcm2nii are installed")
        watched.doing("sending the sample studies")
        host = urlsplit(settings.orthanc_url).hostname or "127.0.0.1"
        sent = run.send(Peer(host, settings.DICOM_PORT, settings.DICOM_AET), lambda: None)
        watched.step(
            f"{sent} instances of {len(samples)} studies sent by C-STORE; stable after {stable_age} s of quiet"
        )
        run.follow(PATIENCE + stable_age, watched.rows)
        took = watched.seconds
    if as_json:
        click.echo(json.dumps(_document(run, settings), indent=2))
    else:
        _show(console, run, settings, took, stays=started_by_us)
    raise SystemExit(0 if all(followed.succeeded for followed in run.followed) else 1)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console.width = max(console.width, 120)
    return console


def _show(console: Console, demo: Demo, settings: Settings, took: float, *, stays: bool) -> None:
    console.print(display.heading(f"what ran, in {took:.0f} s"))
    console.print(display.table(rows_of(demo.followed, set())))
    if files := _outputs(demo, settings):
        console.print(display.outputs(files, settings.data / "results"))
    if found := demo.log_worth_reading():
        job, text = found
        console.print(display.log(job["jobName"], text, _LOG_LINES))
    console.print(display.pages(_pages(settings)))
    if stays:
        console.print(
            f"\nThe stack runs on, with STABLE_AGE 2 for the demo instead of {settings.STABLE_AGE}; "
            "`bash run.sh --local --down` stops it, and the next start takes yours."
        )


def _outputs(demo: Demo, settings: Settings) -> list[Path]:
    folders = [settings.data / "results" / followed.sample.study_id for followed in demo.followed]
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]


def _pages(settings: Settings) -> Sequence[tuple[str, str, str]]:
    secrets = settings.BASEDIR / "secrets"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.BIND_ADDRESS, settings.BIND_ADDRESS)  # noqa: S104 - read
    dashboard = f"http://{host}:{settings.DASHBOARD_PORT}"
    admin = "user admin, password in {}"
    return [
        ("studies", f"{dashboard}/", admin.format(display.near(secrets / "dashboard_password"))),
        ("queues", f"{dashboard}/rq", "the same"),
        ("images", f"{settings.orthanc_url}/", admin.format(display.near(secrets / "orthanc_admin_password"))),
    ]


def _document(demo: Demo, settings: Settings) -> dict[str, Any]:
    return {
        "succeeded": all(followed.succeeded for followed in demo.followed),
        "studies": [followed.view for followed in demo.followed],
        "jobs": [asdict(row) for row in rows_of(demo.followed, set())],
        "outputs": [str(file) for file in _outputs(demo, settings)],
    }

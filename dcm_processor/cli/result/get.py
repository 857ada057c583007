"""`dcm-processor result get`."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dcm_processor.cli.client import Client
from dcm_processor.cli.context import scheduler
from dcm_processor.cli.output import json_option, printable, show_json
from dcm_processor.cli.result.delivery import Came, Place
from dcm_processor.errors import (
    DataFullError,
    DcmProcessorError,
    NotKnownError,
    PermanentError,
    TransientError,
    UsageError,
)

_ALL = 10**9
_PAUSES = (1.0, 3.0, 10.0, 30.0)  # seconds, before results are asked for once more
_LOCK = ".dcm-processor-get"


@click.command("get")
@click.option(
    "-q", "--query", "queries", multiple=True, metavar="KEY=VALUE", help="A DICOM keyword and what it must match."
)
@click.argument("more", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where to."
)
@click.option("--service", help="Only jobs of this service.")
@click.option("--job", "job_name", help="Only jobs of this name.")
@click.option("--dry-run", is_flag=True, help="Say what would be got, and get nothing.")
@json_option
def get(
    *,
    queries: tuple[str, ...],
    more: tuple[str, ...],
    folder: Path,
    service: str | None,
    job_name: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Get the files that finished jobs left, of the studies and series that match a query, into readable folders.

    VALUE is matched as in DICOM's C-FIND: a single value, * and ?, a range of dates (20240101-20240131), a list of UIDs
    (1.2\\1.3). Terms must all hold. What is there already is not got again, so a `get` that was broken off goes on.

    \b
    Examples:
        dcm-processor result get --query PatientID=ABC-* -o results
        dcm-processor result get --query StudyDate=20240101- Modality=CT --job lungs -o results
        dcm-processor result get --service lungs --dry-run -o results
    """
    query = _terms([*queries, *more])
    if not query and service is None and job_name is None:
        raise UsageError("say which results: --query, --service or --job (`--query PatientID=` takes all)")
    client = scheduler()
    found = list(client.found("/results/search", {"query": query, "service": service, "jobName": job_name}, _ALL))
    places = [(Place.of(folder, result), result) for result in found]
    told = [_told(place, result, None) for place, result in places] if dry_run else _get(client, folder, places)
    if as_json:
        show_json(told)
    elif dry_run:
        for each in told:
            click.echo(printable(each["path"]))
    else:
        click.echo(_in_short(told, folder))
    raise SystemExit(1 if any(each["came"] == Came.FAILED for each in told) else 0)


def _terms(texts: Sequence[str]) -> dict[str, str]:
    terms: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError("a term of a query is KEY=VALUE, such as PatientID=ABC-*")
        if key in terms:
            raise UsageError(f"{key} is asked for twice; a list of values is written with a backslash between them")
        terms[key] = value
    return terms


def _get(client: Client, folder: Path, places: Sequence[tuple[Place, dict[str, Any]]]) -> list[dict[str, Any]]:
    told = []
    with _alone(folder), _progress() as progress:
        task = progress.add_task("getting results", total=len(places))
        for place, result in places:
            progress.update(task, description=printable(place.folder.relative_to(folder)))
            try:
                told.append(_told(place, result, *_one(client, place, result)))
            except DataFullError:
                raise
            except DcmProcessorError as error:
                click.echo(f"dcm-processor: {printable(error)}", err=True)
                told.append(_told(place, result, Came.FAILED))
            progress.advance(task)
    return told


def _one(client: Client, place: Place, result: dict[str, Any]) -> tuple[Came, int]:
    """Have one job's results here; returns what became of them and how many bytes came."""
    if place.has(result):
        return Came.THERE, 0
    series = f"/{result['seriesId']}" if result["seriesId"] is not None else ""
    path = f"/results/{result['studyId']}/{result['jobName']}{series}"
    for pause in (*_PAUSES, None):
        try:
            return Came.FETCHED, place.put(result, client.archive(path)).size
        except NotKnownError:
            return Came.GONE, 0
        except DataFullError:
            raise
        except TransientError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: of two at once each would take the other's half for something left behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PermanentError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise PermanentError(
            f"another `result get` writes to {folder}; wait for it, or choose another folder"
        ) from None
    finally:
        os.close(lock)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _told(place: Place, result: dict[str, Any], came: Came | None, size: int = 0) -> dict[str, Any]:
    return {
        "path": str(place.folder),
        "studyId": result["studyId"],
        "seriesId": result["seriesId"],
        "jobName": result["jobName"],
        "attemptId": result["attemptId"],
        "came": came,
        "size": size,
    }


def _in_short(told: Sequence[dict[str, Any]], folder: Path) -> str:
    if not told:
        return "nothing matches; only elements of HEADER_FIELDS are kept, and only jobs that finished leave results"
    counts = Counter(each["came"] for each in told)
    size = sum(each["size"] for each in told) / 1e6
    words = {
        Came.FETCHED: f"got ({size:.1f} MB)",
        Came.THERE: "there already",
        Came.GONE: "gone from the scheduler",
        Came.FAILED: "failed; try again to go on",
    }
    return f"results of {len(told)} jobs in {folder}: " + ", ".join(
        f"{counts[came]} {text}" for came, text in words.items() if counts[came]
    )

"""Many jobs at once: which are meant, whether they are really meant, and what came of it."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from dcm_processor.cli.client import Client, no_job
from dcm_processor.cli.output import printable
from dcm_processor.errors import PermanentError, UsageError
from dcm_processor.job_settings import parse_timeout
from dcm_processor.vocabulary import JobState

ENDED = [state.value for state in JobState if state.ended and state is not JobState.SUPERSEDED]
"""States from which jobs may be run again."""

_AT_ONCE = 1000  # the most that the API takes
_MOST = 1_000_000
_SHOWN = 10  # reasons, or jobs that were refused
_NOT_KNOWN = 404  # HTTP's status


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """What says which jobs are meant; `search_terms` takes them."""
    for option in (
        click.option("--reason", help="Only jobs whose reason holds this text, whatever its case."),
        click.option("--since", help='Only jobs that ended since: "24h", "2d", or a date, with or without a time.'),
        click.option("--job", "job_name", help="Only jobs of this name."),
        click.option("--service", help="Only jobs of this service."),
    ):
        command = option(command)
    return command


def search_terms(
    *, service: str | None, job_name: str | None, since: str | None, reason: str | None
) -> dict[str, str | None]:
    """The terms of a search; those that were not given are absent.

    Raises UsageError.
    """
    terms = {"service": service, "jobName": job_name, "since": since and _moment(since), "reason": reason}
    return {key: value for key, value in terms.items() if value is not None}


def chosen(client: Client, terms: Mapping[str, Any], *, ask: bool) -> list[list[str]]:
    """The jobs that are found, in lists of as many as the API takes, each study's in one where that holds them.

    Says on stderr what they are, and asks unless told not to.
    Raises UsageError where nobody can be asked, PermanentError where the answer is no.
    """
    by_study: dict[str, list[str]] = defaultdict(list)
    kinds: Counter[tuple[str, str, str]] = Counter()
    for job in client.found("/jobs/search", terms, _MOST):
        by_study[job["studyId"]].append(job["jobId"])
        kinds[job["service"], job["jobName"], _first_line(job["reason"])] += 1
    number = sum(kinds.values())
    for (service, name, reason), count in kinds.most_common(_SHOWN):
        click.echo(printable(f"{count:>7}  {service}/{name}  {reason}"), err=True)
    if len(kinds) > _SHOWN:
        click.echo(f"    and {len(kinds) - _SHOWN} other reasons", err=True)
    click.echo(f"{number} jobs of {len(by_study)} studies", err=True)
    if number and ask:
        if not _somebody_is_there():
            raise UsageError("nobody is there to be asked; --yes runs them again")
        if not click.confirm("Run them, and what depends on them, again?", err=True):
            raise PermanentError("nothing runs again")
    return list(_portions(list(by_study.values())))


def show_accepted(accepted: Sequence[Mapping[str, Any]], *, quiet: bool) -> None:
    if quiet or not accepted:
        return
    if len(accepted) <= _SHOWN:
        for entry in accepted:
            click.echo(f"accepted; `dcm-processor study show {entry['studyId']}` shows what comes of it")
        return
    number = sum(len(entry["jobIds"]) for entry in accepted)
    click.echo(f"accepted: {number} jobs of {len(accepted)} studies; `dcm-processor study list` shows what comes of it")


def show_refused(refused: Sequence[Mapping[str, Any]]) -> None:
    """Each job with why, the first few of many."""
    for entry in refused[:_SHOWN]:
        name = entry["jobId"]
        told = no_job(name) if entry["status"] == _NOT_KNOWN else f"{name}: {entry['reason']}"
        click.echo(f"dcm-processor: {printable(told)}", err=True)
    if len(refused) > _SHOWN:
        click.echo(f"dcm-processor: and {len(refused) - _SHOWN} more jobs cannot run again; --json has all", err=True)


def _portions(studies: Sequence[list[str]]) -> Iterator[list[str]]:
    portion: list[str] = []
    for ids in studies:
        if portion and len(portion) + len(ids) > _AT_ONCE:
            yield portion
            portion = []
        portion = portion + ids
        while len(portion) > _AT_ONCE:
            yield portion[:_AT_ONCE]
            portion = portion[_AT_ONCE:]
    if portion:
        yield portion


def _moment(text: str) -> str:
    """RFC 3339, UTC, of how long ago or of a moment on this machine's clock."""
    try:
        moment = datetime.now(UTC) - timedelta(seconds=parse_timeout(text))
    except ValueError:
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise UsageError(f'--since takes "24h", "2d", or a date such as 2026-01-31T06:00, not {text!r}') from None
    except OverflowError:
        raise UsageError(f"--since {text!r} is longer ago than there are dates") from None
    return moment.isoformat()


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _first_line(reason: str | None) -> str:
    line = (reason or "").partition("\n")[0]
    return line if len(line) <= 100 else f"{line[:100]}…"

"""`dcm-processor secret`: new texts for passwords and tokens, whether anything runs or not; never shows one."""

from collections.abc import Mapping
from datetime import UTC, datetime

import click

from dcm_processor import basedir
from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, local_time, show_json, show_table
from dcm_processor.rotation import Ending, Rotated, rotate

_AFTERWARDS: Mapping[str, str] = {
    "redis_password": "put the new text into the copies on other worker hosts, if there are any",
    "orthanc_password": "put the new text into the copies on other worker hosts; a job that runs now has the old one",
    "orthanc_admin_password": "log in at Orthanc again, user admin",
    "hook_token": "give it to an Orthanc of your own that has our hook, if there is one",
    "worker_token": "put the new text into the copies on other worker hosts, if there are any",
    "scheduler_token": "give it to programs of your own that use the HTTP API, if there are any",
    "dashboard_password": "log in at the dashboard again, user admin",
}
"""What is left to a person, by secret."""


@click.group()
def secret() -> None:
    """Passwords and tokens: give them new texts, list them.

    \b
    Examples:
      dcm-processor secret list
    """


@secret.command("rotate")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def rotate_(names: tuple[str, ...], *, as_json: bool) -> None:
    """Give secrets new texts while everything runs; without a NAME all of them.

    From then on the texts before are refused. Orthanc is away for two or three seconds where its passwords are rotated.

    \b
    Examples:
      dcm-processor secret rotate
      dcm-processor secret rotate scheduler_token dashboard_password
    """
    done = []
    for rotated in rotate(settings(), names):
        done.append(rotated)
        if not as_json:
            _say(rotated)
    if as_json:
        show_json([_document(rotated) for rotated in done])
    bad = {Ending.FAILED, Ending.NOT_OURS} if names else {Ending.FAILED}
    raise SystemExit(1 if any(rotated.ending in bad for rotated in done) else 0)


@secret.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the secrets: where each is, and since when it has its text.

    \b
    Examples:
      dcm-processor secret list
      dcm-processor secret list --json
    """
    folder = settings().secrets
    found = [(name, (folder / name).stat().st_mtime) for name in basedir.SECRETS if (folder / name).exists()]
    if as_json:
        show_json(
            [{"name": name, "file": str(folder / name), "changedAt": _moment(changed)} for name, changed in found]
        )
        return
    rows = [(name, local_time(changed), folder / name) for name, changed in found]
    show_table(("SECRET", "CHANGED", "FILE"), rows, "there are no secrets yet: the first start makes them")


def _say(rotated: Rotated) -> None:
    if rotated.ending is Ending.ROTATED:
        click.echo(f"{rotated.name}: rotated; the new text is in {settings().secrets / rotated.name}")
        click.echo(f"  to do: {_AFTERWARDS[rotated.name]}")
    else:
        click.echo(f"{rotated.name}: not rotated: {rotated.reason}", err=True)


def _document(rotated: Rotated) -> dict[str, str | None]:
    done = rotated.ending is Ending.ROTATED
    return {
        "name": rotated.name,
        "ending": rotated.ending,
        "reason": rotated.reason or None,
        "file": str(settings().secrets / rotated.name),
        "toDo": _AFTERWARDS[rotated.name] if done else None,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

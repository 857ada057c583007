"""`dcm-processor service list`."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, local_time, show_json, show_table
from dcm_processor.cli.service.document import job_document
from dcm_processor.store import InstalledService, Store


@click.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the installed services."""
    found = Store.of(settings()).services()
    if as_json:
        show_json([_document(each) for each in found])
        return
    rows = [
        (
            each.name,
            each.digest[:12],
            each.origin and each.origin.commit and each.origin.commit[:12],
            each.origin and each.origin.source,
            local_time(each.installed_at),
            ", ".join(job.job_name for job in each.jobs),
            _state(each),
        )
        for each in found
    ]
    empty = "no service is installed; `bash init.sh` installs the base ones"
    show_table(("SERVICE", "VERSION", "COMMIT", "SOURCE", "SINCE", "JOBS", "STATE"), rows, empty)


def _state(found: InstalledService) -> str:
    disabled = () if found.disabled_since is None else (f"disabled since {local_time(found.disabled_since)}",)
    return "; ".join([*disabled, *map(str, found.faults)]) or "in order"


def _document(found: InstalledService) -> dict[str, Any]:
    """A service in the words of the HTTP API."""
    return {
        "name": found.name,
        "version": found.digest or None,
        "installedAt": _moment(found.installed_at),
        "enabled": found.disabled_since is None,
        "disabledSince": None if found.disabled_since is None else _moment(found.disabled_since),
        "origin": found.origin and asdict(found.origin),
        "versions": list(found.versions),
        "jobs": [job_document(job) for job in found.jobs],
        "faults": [str(fault) for fault in found.faults],
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

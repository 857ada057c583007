"""`dcm-processor service list`."""

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
            local_time(each.installed_at),
            ", ".join(job.job_name for job in each.jobs),
            "; ".join(map(str, each.faults)) or "in order",
        )
        for each in found
    ]
    empty = "no service is installed; `bash init.sh` installs the base ones"
    show_table(("SERVICE", "VERSION", "INSTALLED", "JOBS", "STATE"), rows, empty)


def _document(found: InstalledService) -> dict[str, Any]:
    """A service in the words of the HTTP API."""
    return {
        "name": found.name,
        "version": found.digest or None,
        "installedAt": datetime.fromtimestamp(found.installed_at, UTC).isoformat(timespec="seconds"),
        "versions": list(found.versions),
        "jobs": [job_document(job) for job in found.jobs],
        "faults": [str(fault) for fault in found.faults],
    }

"""`dcm-processor service list`."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from dcm_processor.cli.context import settings
from dcm_processor.cli.output import json_option, local_time, show_json, show_table
from dcm_processor.cli.service.document import job_document
from dcm_processor.environments.environment_state import EnvironmentState, least, states_of
from dcm_processor.installed import InstalledService
from dcm_processor.store import Store


@click.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the installed services: which version, where it came from, and how its environment stands on this host.

    SINCE is when that version was made the current one.

    \b
    Examples:
      dcm-processor service list
      dcm-processor service list --json
    """
    store = Store.of(settings())
    found = store.services()
    environments = {each.name: _environment(store, each) for each in found}
    if as_json:
        show_json([_document(each, environments[each.name]) for each in found])
        return
    rows = [
        (
            each.name,
            each.digest[:12],
            each.origin and each.origin.commit and each.origin.commit[:12],
            each.origin and each.origin.source,
            local_time(each.installed_at),
            _word(environments[each.name]),
            ", ".join(job.job_name for job in each.jobs),
            _state(each),
        )
        for each in found
    ]
    empty = "no service is installed; `bash init.sh` installs the base ones"
    show_table(("SERVICE", "VERSION", "COMMIT", "SOURCE", "SINCE", "ENVIRONMENT", "JOBS", "STATE"), rows, empty)


def _state(found: InstalledService) -> str:
    disabled = () if found.disabled_since is None else (f"disabled since {local_time(found.disabled_since)}",)
    return "; ".join([*disabled, *map(str, found.faults)]) or "in order"


def _environment(store: Store, found: InstalledService) -> EnvironmentState | None:
    """How the environment stands that its jobs run in; None where there is no version."""
    if not found.digest:
        return None
    module = store.module_folder(found.name, found.digest)
    return least(states_of(settings(), module, found.digest, (job.python_version for job in found.jobs)))


def _word(environment: EnvironmentState | None) -> str:
    if environment is None:
        return ""
    words = {"none": "not built", "failed": f"failed: {environment.reason}"}
    return words.get(environment.state, environment.state)


def _document(found: InstalledService, environment: EnvironmentState | None) -> dict[str, Any]:
    """A service in the words of the HTTP API."""
    return {
        "name": found.name,
        "version": found.digest or None,
        "installedAt": _moment(found.installed_at),
        "enabled": found.disabled_since is None,
        "disabledSince": None if found.disabled_since is None else _moment(found.disabled_since),
        "origin": found.origin and asdict(found.origin),
        "environment": environment and asdict(environment),
        "versions": list(found.versions),
        "jobs": [job_document(job) for job in found.jobs],
        "faults": [str(fault) for fault in found.faults],
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

"""`dcm-processor service list`."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from dcm_processor.cli.context import scheduler_elsewhere, settings
from dcm_processor.cli.output import json_option, local_time, show_json, show_table
from dcm_processor.cli.service.document import job_document
from dcm_processor.environments.environment_state import EnvironmentState, least, states_of
from dcm_processor.installed import InstalledService
from dcm_processor.store import Store


@click.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the installed services: which version, where it came from, and how its environment stands on that machine.

    SINCE is when that version was made the current one.

    \b
    Examples:
      dcm-processor service list
      dcm-processor service list --json
    """
    client = scheduler_elsewhere()
    found = _here(Store.of(settings())) if client is None else client.get("/services")["items"]
    if as_json:
        show_json(found)
        return
    rows = []
    for each in found:
        origin = each["origin"] or {"commit": None, "source": None}
        rows.append(
            (
                each["name"],
                (each["version"] or "")[:12],
                (origin["commit"] or "")[:12],
                origin["source"],
                local_time(each["installedAt"]),
                _word(each["environment"]),
                ", ".join(job["jobName"] for job in each["jobs"]),
                _state(each),
            )
        )
    empty = "no service is installed; `bash init.sh` installs the base ones"
    show_table(("SERVICE", "VERSION", "COMMIT", "SOURCE", "SINCE", "ENVIRONMENT", "JOBS", "STATE"), rows, empty)


def _state(found: Mapping[str, Any]) -> str:
    since = found["disabledSince"]
    disabled = () if since is None else (f"disabled since {local_time(since)}",)
    return "; ".join([*disabled, *found["faults"]]) or "in order"


def _word(environment: Mapping[str, Any] | None) -> str:
    if environment is None:
        return ""
    words = {"none": "not built", "failed": f"failed: {environment['reason']}"}
    return words.get(environment["state"], str(environment["state"]))


def _here(store: Store) -> list[dict[str, Any]]:
    """The services of this machine in the words of the HTTP API: no scheduler need run."""
    return [_document(each, _environment(store, each)) for each in store.services()]


def _environment(store: Store, found: InstalledService) -> EnvironmentState | None:
    """How the environment stands that its jobs run in; None where they call for none."""
    if not found.digest:
        return None
    module = store.module_folder(found.name, found.digest)
    return least(states_of(settings(), module, found.digest, found.pythons))


def _document(found: InstalledService, environment: EnvironmentState | None) -> dict[str, Any]:
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

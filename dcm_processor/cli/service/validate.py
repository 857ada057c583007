"""`dcm-processor service validate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dcm_processor.cli.context import settings
from dcm_processor.cli.number import Number
from dcm_processor.cli.output import json_option, printable, show_json
from dcm_processor.cli.service.document import FOLDER, job_document
from dcm_processor.manifest import MANIFEST, Defaults, Fault
from dcm_processor.plan import order
from dcm_processor.registry import ServiceRegistry
from dcm_processor.rehearsal.functions import Check, check_functions
from dcm_processor.rehearsal.graph import tree
from dcm_processor.rehearsal.home import environments_folder
from dcm_processor.rehearsal.sources import Source, read_source, together


@click.command()
@click.argument("paths", nargs=-1, required=True, type=FOLDER)
@click.option("--name", help="The service's name; without it what its functions are called by. For one PATH.")
@click.option("--seconds", type=Number(min=0.1), default=60, show_default=True, help="For each import.")
@json_option
def validate(paths: Sequence[Path], name: str | None, seconds: float, *, as_json: bool) -> None:
    """Say all that is wrong with services before they are installed, and draw the plan they make together.

    Each fault has its file, field and reason, and the nearest right name. Callbacks and worker functions are imported,
    each in a process of its own; worker functions only where their environment is built (`service test` builds
    it), else their files are read.

    Exit status 1 where there is a fault; warnings are none.

    \b
    Examples:
      dcm-processor service validate volume
      dcm-processor service validate services/* --json
    """
    if name is not None and len(paths) > 1:
        raise click.UsageError("--name is the name of one service; name one PATH")
    chosen = settings()
    defaults = Defaults(chosen.DEFAULT_LEVEL, chosen.DEFAULT_PRIORITY, chosen.QUEUES)
    sources = [read_source(path, defaults, name) for path in paths]
    registry, wrong, odd = together(sources)
    environments = (environments_folder(), chosen.envs)
    checks = [
        check
        for source in sources
        for check in check_functions(
            source, {other.name: other for other in sources if other is not source}, chosen, environments, seconds
        )
    ]
    faults = [*(fault for source in sources for fault in source.faults), *wrong, *_faults_of(checks)]
    warnings = [*(warning for source in sources for warning in source.warnings), *odd]
    if as_json:
        show_json(_document(sources, registry, checks, faults, warnings))
    else:
        _show(registry, checks, faults, warnings)
    raise SystemExit(1 if faults else 0)


def _faults_of(checks: Sequence[Check]) -> list[Fault]:
    return [
        Fault(check.service, MANIFEST, check.role, f'job "{job}": {check.function}: {check.fault}', job)
        for check in checks
        if check.fault is not None
        for job in check.jobs
    ]


def _show(
    registry: ServiceRegistry, checks: Sequence[Check], faults: Sequence[Fault], warnings: Sequence[Fault]
) -> None:
    for fault in faults:
        click.secho(f"fault: {printable(fault)}", err=True, fg="red")
    for warning in warnings:
        click.secho(f"warning: {printable(warning)}", err=True, fg="yellow")
    if registry.jobs:
        Console(highlight=False).print(tree(registry))
    unbuilt = sorted({check.service for check in checks if not check.imported})
    if unbuilt:
        names = ", ".join(unbuilt)
        click.echo(f"worker functions of {names}: their files were read, not imported; no environment is built yet")
    numbers = ((len(registry.jobs), "job"), (len(faults), "fault"), (len(warnings), "warning"))
    counts = ", ".join(f"{number} {what}{'s' * (number != 1)}" for number, what in numbers)
    click.secho(counts, fg="red" if faults else "green")


def _document(
    sources: Sequence[Source],
    registry: ServiceRegistry,
    checks: Sequence[Check],
    faults: Sequence[Fault],
    warnings: Sequence[Fault],
) -> dict[str, Any]:
    return {
        "valid": not faults,
        "faults": [_finding(fault) for fault in faults],
        "warnings": [_finding(warning) for warning in warnings],
        "services": [
            {"name": source.name, "path": str(source.path), "version": source.digest or None} for source in sources
        ],
        "plan": [
            {**job_document(job.settings), "service": job.service, "after": list(registry.edges[job.name])}
            for job in order(registry)
        ],
        "functions": [
            {
                "service": check.service,
                "jobs": list(check.jobs),
                "role": check.role,
                "function": check.function,
                "checked": "imported" if check.imported else "read",
                "fault": check.fault,
            }
            for check in checks
        ],
    }


def _finding(fault: Fault) -> dict[str, str | None]:
    return {
        "service": fault.service,
        "file": fault.file or None,
        "field": fault.field or None,
        "job": fault.job,
        "reason": fault.reason,
    }

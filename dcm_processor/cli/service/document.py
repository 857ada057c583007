"""What the verbs of `service` share: parameters, and jobs in the words of the HTTP API."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dcm_processor.manifest import JobSettings

FOLDER = click.Path(path_type=Path)


def source_option(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`-p SOURCE`: what services are installed from."""
    return click.option(
        "-p",
        "--path",
        "source",
        metavar="SOURCE",
        required=required,
        help="A folder, a .zip, .tar.gz, .tgz or .tar file, or git+URL[@REF][#subdirectory=PATH], as pip has it.",
    )


def job_document(job: JobSettings) -> dict[str, Any]:
    """A job of a service."""
    return {
        "jobName": job.job_name,
        "description": job.description,
        "level": job.level,
        "stage": job.stage,
        "priority": job.priority,
        "dependsOn": list(job.depends_on),
        "timeout": job.timeout,
        "disabled": job.disabled,
    }

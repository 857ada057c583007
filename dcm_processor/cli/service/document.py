"""What the verbs of `service` share: parameters, and jobs in the words of the HTTP API."""

from pathlib import Path
from typing import Any

import click

from dcm_processor.manifest import JobSettings

FOLDER = click.Path(path_type=Path)


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

"""Whether the callbacks and worker functions that settings.json names are there and can be called.

Each is imported in a child: callbacks by this Python, as the scheduler does, worker functions by that of the service's
environment where one is built. Where none is, the text of the files has to do, and the check says so.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcm_processor import contract, import_check
from dcm_processor.environments.environment_key import recipe
from dcm_processor.environments.environment_state import state_of
from dcm_processor.rehearsal.sources import Source
from dcm_processor.settings import Settings

CALLBACK_OFFERED = ("jobName", "headers", "params", "added_params")
WORKER_OFFERED = (
    *CALLBACK_OFFERED, "dicom_dir", "output_dir", "inputs", "outcomes", "studyId", "planId", "attempt",
)  # fmt: skip
_KEPT = ("PATH", "LANG", "LC_ALL", "HOME", "TMPDIR")

Role = Literal["callback", "worker"]


@dataclass(frozen=True)
class Check:
    """One function of a service: `imported`, or only its file `read`; `fault` says what is wrong with it."""

    service: str
    jobs: tuple[str, ...]
    role: Role
    function: str
    imported: bool
    fault: str | None


def check_functions(
    source: Source, siblings: Mapping[str, Source], settings: Settings, environments: Sequence[Path], seconds: float
) -> Iterator[Check]:
    """Check all functions of a service; importing those of one role and interpreter may take so many seconds.

    `siblings` are the other services, by name; `environments` are folders of built environments (BASEDIR/envs).
    """
    asked: dict[tuple[Role, Path | None], dict[str, list[str]]] = {}
    for job in source.manifest.jobs:
        python = interpreter(source, job.python_version, settings, environments)
        asked.setdefault(("callback", Path(sys.executable)), {}).setdefault(job.callback, []).append(job.job_name)
        asked.setdefault(("worker", python), {}).setdefault(job.worker, []).append(job.job_name)
    for (role, python), jobs_of in asked.items():
        folder = _folder(source, role)
        if python is None:
            found = {dotted: import_check.read(dotted, folder) for dotted in jobs_of}
        else:
            others = {name: _folder(other, role) for name, other in siblings.items()}
            found = _imported(_Question(python, source.name, folder, others, role), list(jobs_of), seconds)
        for dotted, jobs in jobs_of.items():
            yield Check(source.name, tuple(jobs), role, dotted, python is not None, found[dotted])


def interpreter(
    source: Source, python_version: str | None, settings: Settings, environments: Sequence[Path]
) -> Path | None:
    """The Python of the service's environment, if one of the folders has it."""
    try:
        key = recipe(settings, source.module, source.digest, python_version).key
    except OSError:
        return None
    pythons = [envs / key / "bin" / "python" for envs in environments if state_of(envs, key).state == "ready"]
    return next((python for python in pythons if os.access(python, os.X_OK)), None)


def _folder(source: Source, role: Role) -> Path:
    return source.registry if role == "callback" else source.module


@dataclass(frozen=True)
class _Question:
    python: Path
    service: str
    folder: Path
    siblings: Mapping[str, Path]
    role: Role


def _imported(question: _Question, functions: Sequence[str], seconds: float) -> dict[str, str | None]:
    """Function -> what is wrong with it; where the child hangs or ends, that is wrong with each."""
    places = [f"{name}={place}" for name, place in sorted(question.siblings.items())]
    program = [str(question.python), "-I", str(import_check.__file__), str(contract.__file__)]
    command = [*program, question.service, str(question.folder), *places]
    offered = CALLBACK_OFFERED if question.role == "callback" else WORKER_OFFERED
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if key in _KEPT},
        start_new_session=True,  # so that what it starts ends with it
    ) as child:
        try:
            said, _ = child.communicate(json.dumps({"functions": functions, "offered": offered}).encode(), seconds)
            why = f"importing it ended the process (exit status {child.returncode})"
        except subprocess.TimeoutExpired:
            said, why = b"", f"importing it took longer than {seconds:g} s"
        finally:
            with suppress(ProcessLookupError, PermissionError):  # the latter: macOS, of a group of zombies
                os.killpg(child.pid, signal.SIGKILL)
    try:
        answer = dict(json.loads(said))
        return {dotted: answer[dotted] and str(answer[dotted]) for dotted in functions}
    except (ValueError, TypeError, KeyError):
        return dict.fromkeys(functions, why)

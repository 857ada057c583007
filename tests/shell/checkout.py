"""A copy of the scripts in a folder of its own; its command line is a stand-in that repeats what it was called with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcm_processor.settings import CHECKOUT
from tests.waiting import wait_until

_SCRIPTS = ("run.sh", "init.sh", "service.sh", "cli.sh", "build.sh", "sh", "requirements", "pyproject.toml", ".env")
STAND_IN = """#!/bin/sh
printf '%s\\n' "$@"
"""


DOCKER = """#!/bin/bash
(IFS=$'\\t'; printf '%s\\n' "$*") >>'{log}'
case "$*" in
  'compose version') exit {compose} ;;
  version*) if (({engine})); then echo 'Cannot connect to the Docker daemon' >&2; exit 1; fi ;;
  *' config') echo 'name: checkout' ;;
  *' up '*) exit "${{REFUSES:-0}}" ;;
  *' ps --all --format '*) printf '%s' "${{SICK:-}}" ;;
  *'ps --quiet worker') printf '%s' "${{RUNNING:-}}" ;;
esac
"""


class Checkout:
    """A checkout whose .venv is up to date, so that no script installs anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in _SCRIPTS:
            source = CHECKOUT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)

    def with_environment(self) -> "Checkout":
        """Have the .venv, as if it had been made."""
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs / "dcm-processor").write_text(STAND_IN)
        (programs / "dcm-processor").chmod(0o755)
        self.bash('source sh/python.sh; fingerprint server >"$venv/made-from-server"')
        return self

    def with_docker(self, *, engine: bool = True, compose: bool = True) -> dict[str, str]:
        """Have a `docker` that notes each call in `docker.log` and knows every image; returns the env that finds it."""
        programs = self.folder.parent / "stand-ins"
        programs.mkdir()
        (programs / "docker").write_text(
            DOCKER.format(log=self.docker_log, engine=0 if engine else 1, compose=0 if compose else 1)
        )
        (programs / "docker").chmod(0o755)
        return {"PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    @property
    def docker_log(self) -> Path:
        """What docker was called with, a line a call, words apart by tabs."""
        return self.folder.parent / "docker.log"

    def docker_calls(self) -> list[list[str]]:
        """The calls of Compose that change or run something, without the options before the verb."""
        calls = [line.split("\t") for line in self.docker_log.read_text().splitlines()]
        verbs = ("up", "down", "run", "build", "pull")
        composed = [call for call in calls if call[0] == "compose"]
        found = [next(((i, w) for i, w in enumerate(call) if w in verbs), None) for call in composed]
        return [call[at[0] :] for call, at in zip(composed, found, strict=True) if at is not None]

    @contextmanager
    def running_stack(self) -> Iterator[None]:
        """A program of local mode runs from this checkout, as far as the scripts can tell."""
        environment = {**os.environ, "DCM_PROCESSOR_HOME": str(self.folder), "DCM_PROCESSOR_STACK": "/base"}
        program = subprocess.Popen(["sleep", "600"], env=environment)
        try:
            wait_until(lambda: b"DCM_PROCESSOR_STACK" in Path(f"/proc/{program.pid}/environ").read_bytes())
            yield
        finally:
            program.kill()
            program.wait()

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """What `bash SCRIPT ARGUMENT…` does, called from `cwd` (else the checkout)."""
        return self._call([str(self.folder / script), *arguments], cwd or self.folder, env)

    def bash(self, lines: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run lines that may source sh/*.sh."""
        return self._call(["-euo", "pipefail", "-c", f'checkout="{self.folder}"; {lines}'], self.folder, env)

    def _call(self, arguments: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
        return subprocess.run(
            ["bash", *arguments], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=60, check=False
        )

"""The command line on an empty installation."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dcm_processor import service_tree
from dcm_processor.cli import main


class Cli:
    """Runs commands as a user would, and looks at what they say."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def __call__(self, *arguments: str | Path) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="dcm-processor")

    def done(self, *arguments: str | Path) -> str:
        """What a command that succeeds says."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, *arguments: str | Path, status: int = 1) -> str:
        """What a command that fails says: on stderr alone."""
        result = self(*arguments)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        return result.stderr


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    base = tmp_path / "base"
    monkeypatch.setenv("BASEDIR", str(base))
    monkeypatch.setenv("DCM_PROCESSOR_HOME", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")  # nobody listens there
    for key in ("REGISTRY", "MODULES", "DATABASE_URL"):
        monkeypatch.delenv(key, raising=False)
    yield Cli(base)
    service_tree.remove(tmp_path)  # what nobody may write to, pytest could not delete


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """Makes a service's source folder."""

    def make(name: str = "demo", job: Mapping[str, Any] | None = None) -> Path:
        folder = tmp_path / "sources" / name
        for part in ("registry", "module"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        settings = {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.callback", **(job or {})}
        (folder / "registry" / "settings.json").write_text(json.dumps(settings))
        (folder / "registry" / "callback.py").write_text("def callback(): return True\n")
        (folder / "module" / "worker.py").write_text("def worker(): pass\n")
        return folder

    return make

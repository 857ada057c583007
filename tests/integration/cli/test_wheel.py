"""`pip install .`: the command line without the server's packages; what needs them says so in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dcm_processor.settings import CHECKOUT
from tests.integration.cli.test_remote import plain_server
from tests.integration.cli.test_replay import keep
from tests.integration.scheduler.api.stand import Installation, study_id

SERVER = ("sqlalchemy", "rq", "redis", "flask", "gunicorn", "alembic", "psycopg", "supervisor")


def uv(*arguments: str | Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "uv", *arguments], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with our wheel and no extra."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("dcm_processor", "scheduler", "worker", "dashboard"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    uv("build", "--wheel", "--out-dir", folder / "dist", source)
    uv("venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (wheel,) = (folder / "dist").glob("dcm_processor-*.whl")
    uv("pip", "install", "--python", python, wheel)
    return python


@pytest.fixture
def nowhere(tmp_path: Path) -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "BASEDIR": str(tmp_path / "base")}


def call(python: Path, env: Mapping[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = python.parent / "dcm-processor"
    return subprocess.run(
        [program, *arguments], env=env, cwd="/", capture_output=True, text=True, check=False, timeout=120
    )


def test_no_server_part_is_there(python: Path) -> None:
    code = f"import importlib.util; print([name for name in {SERVER!r} if importlib.util.find_spec(name)])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_command_explains_itself(python: Path, nowhere: Mapping[str, str]) -> None:
    assert "Usage: dcm-processor " in call(python, nowhere, "--help").stdout
    for words in ("study list", "job list", "result list", "result get", "service list", "service test", "service new"):
        done = call(python, nowhere, *words.split(), "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Usage: dcm-processor {words} " in done.stdout


def test_what_speaks_to_a_scheduler_works(python: Path, nowhere: Mapping[str, str], tmp_path: Path) -> None:
    with Installation(tmp_path / "there") as there, plain_server(there) as port:
        study = there.study(1)
        token = there.base / "secrets" / "scheduler_token"
        where = ("--url", f"http://127.0.0.1:{port}", "--token-file", token)
        done = call(python, nowhere, *where, "study", "list")
        assert study in done.stdout
        assert call(python, nowhere, *where, "job", "list", "--json").stdout == "[]\n"


@pytest.mark.parametrize("words", [("service", "remove", "temp"), ("stack", "up"), ("secret", "rotate")])
def test_what_needs_the_server_says_so_in_one_line(
    python: Path, nowhere: Mapping[str, str], words: tuple[str, ...]
) -> None:
    done = call(python, nowhere, *words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'dcm-processor[server]'" in done.stderr


def test_services_are_made_checked_and_replayed(python: Path, nowhere: Mapping[str, str], tmp_path: Path) -> None:
    assert call(python, nowhere, "service", "list", "--json").stdout == "[]\n"
    assert call(python, nowhere, "service", "new", "volume", "--output", tmp_path).returncode == 0
    checked = call(python, nowhere, "service", "validate", tmp_path / "volume")
    assert (checked.returncode, "0 faults" in checked.stdout) == (0, True)
    with Installation(tmp_path / "there") as there, plain_server(there) as port:
        there.plan(there.study(1), {"job_name": "temp"})
        keep(there, study_id(1), {"studyId": study_id(1), "seriesIds": [], "Modality": "CT", "series": []})
        where = ("--url", f"http://127.0.0.1:{port}", "--token-file", there.base / "secrets" / "scheduler_token")
        done = call(python, nowhere, *where, "service", "replay", tmp_path / "volume", "--json")
        assert (done.returncode, json.loads(done.stdout)["studies"]) == (0, 1)

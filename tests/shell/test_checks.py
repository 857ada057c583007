"""What the checks of test.sh look at: the project's files, not what a user makes in this folder."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dcm_processor.settings import CHECKOUT

USERS = [
    "lungs/README.md",
    "lungs/module/worker.py",
    "lungs/registry/callback.py",
    "services/lungs/module/worker.py",
    "worker/mine/x.txt",
]
OURS = ["worker/run.py", "dcm_processor/cli/study.py", "services/temp/module/worker.py", "tests/unit/test_docs.py"]


def ruff(folder: Path, *arguments: str) -> str:
    """What ruff says there, with the project's settings."""
    program = Path(sys.executable).with_name("ruff")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False).stdout


def listed(folder: Path) -> set[str]:
    """The Python files that ruff checks there."""
    found = {str(Path(line).relative_to(folder)) for line in ruff(folder, "check", "--show-files").splitlines()}
    return found - {"pyproject.toml"}


def test_ruff_leaves_a_users_files_alone(tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    for name in [*USERS, *OURS, "docs/services.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("```python\nimport   os\n```\n" if name.endswith(".md") else "import   os\n")
    assert listed(tmp_path) == set(OURS)
    formatted = ruff(tmp_path, "format", "--check")
    assert "lungs" not in formatted
    assert "docs/services.md" in formatted, "the code in the project's own documents is looked at"


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="no clone: git tells which files are the project's")
def test_ruff_checks_all_of_the_projects_files() -> None:
    command = ["git", "-C", str(CHECKOUT), "-c", "safe.directory=*", "ls-files", "*.py"]
    ours = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {path for path in ours if "/migrations/versions/" not in path} == listed(CHECKOUT)


def test_shellcheck_leaves_a_users_scripts_alone(tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "sh", tmp_path / "sh")
    for script in [*CHECKOUT.glob("*.sh"), *map(Path, ["init.local.sh", "services/lungs/module/script.sh"])]:
        place = tmp_path / (script.relative_to(CHECKOUT) if script.is_absolute() else script)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    lines = re.findall(r"^(?:shopt .*|scripts=.*)$", (CHECKOUT / "test.sh").read_text(), re.MULTILINE)
    program = "\n".join([*lines, 'printf "%s\\n" "${scripts[@]}"'])
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    committed = {"build.sh", "cli.sh", "init.sh", "run.sh", "service.sh", "test.sh", ".ci/run"}
    assert set(done.stdout.split()) == committed | {f"sh/{path.name}" for path in (CHECKOUT / "sh").glob("*.sh")}

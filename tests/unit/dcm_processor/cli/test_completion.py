"""The Tab key, in each of the three shells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.dcm_processor.cli.conftest import Cli

PROGRAM = f'#!/bin/sh\nexec "{sys.executable}" -m dcm_processor.cli "$@"\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with `dcm-processor` in it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "dcm-processor").write_text(PROGRAM)
    (folder / "dcm-processor").chmod(0o755)
    return folder


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], {"study", "stack"}),
        (["study", "ex"], {"explain"}),
        (["service", "inst"], {"install"}),
        (["study", "list", "--st"], {"--state"}),
        (["study", "list", "--state", "fin"], {"finished"}),
        (["--tok"], {"--token-file"}),
    ],
)
def test_the_program_answers_each_shell(programs: Path, shell: str, words: list[str], offered: set[str]) -> None:
    line = ["dcm-processor", *words]
    asked = {"COMP_WORDS": " ".join(line if shell != "fish" else line[:-1]), "COMP_CWORD": str(len(words))}
    asked |= {"COMP_CWORD": words[-1]} if shell == "fish" else {}
    environment = {**os.environ, **asked, "_DCM_PROCESSOR_COMPLETE": f"{shell}_complete"}
    done = subprocess.run(
        [programs / "dcm-processor"], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    match shell:
        case "bash":
            found = {line.partition(",")[2] for line in lines}
        case "zsh":
            found = set(lines[1::3])
        case _:
            found = {line.partition(",")[2].partition("\t")[0] for line in lines}
    assert found == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_program(cli: Cli, shell: str) -> None:
    script = cli.done("completion", shell)
    assert f"_DCM_PROCESSOR_COMPLETE={shell}_complete" in script
    assert "dcm-processor" in script


def test_a_real_bash_completes(cli: Cli, programs: Path) -> None:
    lines = """
source <(dcm-processor completion bash)
COMP_WORDS=(dcm-processor study ex) COMP_CWORD=2
_dcm_processor_completion dcm-processor ex study
printf '%s\\n' "${COMPREPLY[@]}"
complete -p dcm-processor
"""
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", lines], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[0] == "explain"
    assert "_dcm_processor_completion dcm-processor" in done.stdout


def test_another_shell_is_wrong_usage(cli: Cli) -> None:
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in cli.refused("completion", "tcsh", status=2)

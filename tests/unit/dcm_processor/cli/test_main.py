"""What all commands share."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from dcm_processor.cli import _NOUNS, main
from tests.unit.dcm_processor.cli.conftest import Cli


@pytest.mark.parametrize("noun", _NOUNS)
def test_every_noun_is_there_and_explains_itself(cli: Cli, noun: str) -> None:
    assert noun in cli.done("--help")
    assert "Usage: dcm-processor " in cli.done(noun, "--help")
    assert main.get_command(main.make_context("x", ["--help"], resilient_parsing=True), noun) is not None


def test_help_imports_nothing_that_a_single_noun_needs() -> None:
    heavy = {"pydicom", "requests", "sqlalchemy", "pydantic", "rich", "pynetdicom", "flask"}
    code = (
        "import sys\nfrom dcm_processor.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("arguments", [("nonsense",), ("service", "nonsense"), ("service", "install"), ("--nonsense",)])
def test_wrong_usage_ends_with_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    said = cli.refused(*arguments, status=2)
    assert said.startswith("dcm-processor: ")
    assert said.endswith("--help` shows what there is\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("studdy", "list"), 'no command "studdy"; did you mean "study"? `dcm-processor --help` shows'),
        (("study", "lst"), 'no command "lst"; did you mean "list"? `dcm-processor study --help` shows'),
        (
            ("study", "list", "--stat", "failed"),
            'no option "--stat"; did you mean "--state"? `dcm',
        ),
        (("study", "list", "--qwertz"), 'no option "--qwertz"; `dcm-processor study list --help` shows'),
        (("study", "show"), "missing argument 'STUDY'; `dcm-processor study show --help` shows"),
        (("study", "list", "--state", "lost"), "invalid value for '--state': 'lost' is not one of 'known', "),
        (("service", "install", "x"), "missing option '-p' / '--path'; `dcm-processor service install --help` shows"),
    ],
)
def test_wrong_usage_says_what_why_and_what_to_do(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    assert says in cli.refused(*arguments, status=2)


def test_a_noun_alone_shows_its_verbs(cli: Cli) -> None:
    assert "Usage: dcm-processor study " in cli.refused("study", status=2)


def test_an_error_of_ours_is_one_line_on_stderr_and_ends_with_1(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".env.local").write_text("STABLE_AGE=soon\n")
    said = cli.refused("service", "list")
    assert said.startswith("dcm-processor: STABLE_AGE: ")
    assert said.count("\n") == 1


def test_ctrl_c_ends_with_130_and_without_a_traceback(cli: Cli) -> None:
    with patch("dcm_processor.store.Store.services", side_effect=KeyboardInterrupt):
        assert cli.refused("service", "list", status=130) == "interrupted\n"


def test_a_reader_that_closes_early_is_no_error(cli: Cli, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dcm_processor.cli", "service", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_it_says_its_version(cli: Cli) -> None:
    assert cli.done("--version").startswith("dcm-processor, version ")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    """`send` shows what it rejects in red."""
    monkeypatch.setenv("NO_COLOR", no_color)
    (tmp_path / "note.txt").write_text("no DICOM")
    command = [sys.executable, "-m", "dcm_processor.cli", "send", str(tmp_path / "note.txt")]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        process.wait(60)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        said = terminal.read1(1 << 16)
    assert b"rejected" in said
    assert (b"\x1b[31m" in said) == coloured
    piped = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert b"\x1b" not in piped.stdout + piped.stderr

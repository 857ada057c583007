"""What reaches a terminal."""

import io
import re
from datetime import UTC, datetime, timedelta

import pytest

from dcm_processor.cli.output import local_time, printable, printable_log, seconds_between, show_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ROWS = [("temp", "finished", "[bold]not markup[/bold]"), ("a" * 60, None, "x\x1b]0;owned\x07y")]


def test_a_pipe_gets_tabs_with_a_header_and_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("JOB", "STATE", "REASON"), [*ROWS, ("b", "c", "two\nlines\tof text")], "nothing")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "JOB\tSTATE\tREASON"
    assert lines[1] == "temp\tfinished\t[bold]not markup[/bold]"
    assert lines[3] == "b\tc\ttwo lines of text"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_table_fits_the_terminal_and_loses_nothing(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    show_table(("JOB", "STATE", "REASON"), ROWS, "nothing")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert max(map(len, shown.splitlines())) <= width
    assert "\x07" not in shown
    assert "\x1b]" not in shown
    assert shown.count("a") >= 60


def test_an_empty_table_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    show_table(("JOB",), [], "no jobs yet")
    assert terminal.getvalue() == "no jobs yet\n"


def test_control_characters_never_reach_a_terminal() -> None:
    assert printable("a\x1b[2Jb\x00\x85c\td\ne") == "a\ufffd[2Jb\ufffd\ufffdc d\ne"
    assert printable("Schädel 頭") == "Schädel 頭"
    assert printable(None) == ""
    assert printable_log("\x1b[1;31mred\x1b[0m 10%\r20%\n\x1b]0;x\x07") == "red 10%\r20%\n\ufffd]0;x\ufffd"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (12, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert seconds_between(begin.isoformat(), (begin + timedelta(seconds=seconds)).isoformat()) == text
    assert seconds_between(None, None) == ""


def test_moments_are_shown_on_this_machines_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert local_time(moment.isoformat().replace("+00:00", "Z")) == local_time(moment.timestamp())
    assert local_time(None) == ""

"""The demo's jobs, live on a terminal and as lines elsewhere."""

import io
from dataclasses import replace

from rich.console import Console

from dcm_processor.cli.demo_display import Watched
from dcm_processor.demo import Row
from tests.waiting import wait_until

QUEUED = Row("CT Demo: chest", "dcm2nii", "Chest native", "queued", 1, None, "")
FAILED = replace(QUEUED, state="failed", attempt=2, seconds=1.25, reason="exit status 3")
HIDE_CURSOR, SHOW_CURSOR, LINE_UP = "\x1b[?25l", "\x1b[?25h", "\x1b[1A"


def watched(*, terminal: bool) -> tuple[Watched, io.StringIO]:
    shown = io.StringIO()
    return Watched(Console(file=shown, force_terminal=terminal, width=120, color_system=None)), shown


def test_a_terminal_has_a_table_that_changes_in_place_and_goes_at_the_end() -> None:
    watch, shown = watched(terminal=True)
    with watch:
        watch.step("services are installed")
        watch.counting("sending")()
        wait_until(lambda: "sending: 1" in shown.getvalue(), 5, "what goes on is shown")
        watch.rows([QUEUED])
        wait_until(lambda: "queued" in shown.getvalue(), 5, "the job is shown")
        watch.rows([FAILED])
    said = shown.getvalue()
    assert said.startswith(HIDE_CURSOR)
    for heading in ("study", "job", "series", "state", "attempt", "time", "reason"):
        assert heading in said
    before, _, after = said.partition("queued")
    assert "services are installed\n" in before
    assert LINE_UP in after
    assert "failed" in after.rpartition(SHOW_CURSOR)[0]
    assert "1.2 s" in after
    assert "exit status 3" in after


def test_elsewhere_each_change_is_a_line_and_nothing_else_is_said() -> None:
    watch, shown = watched(terminal=False)
    with watch:
        watch.doing("waiting")
        for row in (QUEUED, QUEUED, FAILED, FAILED):
            watch.rows([row])
    lines = [line.split(" s  ", 1)[1] for line in shown.getvalue().splitlines()]
    assert lines == [
        "CT Demo: chest  dcm2nii  Chest native  queued",
        "CT Demo: chest  dcm2nii  Chest native  failed  attempt 2  exit status 3",
    ]

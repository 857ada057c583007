"""The reaper's log, and what it reads in /proc; tests/integration/worker kills with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until
from worker import reaper
from worker.reaper import Log


def test_a_log_within_its_limit_is_what_was_printed(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 1_000_000)
    log.write(b"one\n")
    log.write(b"two\n")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert (log.size, log.cut, log.fault) == (8, 0, None)


@pytest.mark.parametrize("piece", [7, 1000, 65536, 1 << 20])
def test_a_log_is_cut_in_the_middle(tmp_path: Path, piece: int) -> None:
    """However it arrives: whole lines at the beginning, how much was left out, and the last of it."""
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    log = Log(str(tmp_path / "log"), 200_000)
    for start in range(0, len(text), piece):
        log.write(text[start : start + piece])
    log.close()
    found = (tmp_path / "log").read_bytes()
    assert len(found) <= 200_000
    assert log.size == len(found)
    head, _, rest = found.partition(b"\n[dcm-processor: the log is full; what follows is left out but for its end]\n")
    mark, _, tail = rest.partition(b"\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(tail) > 60_000
    assert tail.startswith(b"line ")
    assert int(mark.split()[1]) == len(text) - len(head) - len(tail)


def test_a_log_that_cannot_be_opened_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "no" / "such" / "folder"), 1_000_000)
    log.write(b"x")
    log.close()
    assert log.fault == "No such file or directory"
    assert log.size == 0


def test_what_was_lost_while_the_disk_was_full_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(str(tmp_path / "log"), 1_000_000)
    log.write(b"before\n")
    with monkeypatch.context() as full:

        def write(_fd: int, _data: bytes) -> int:
            raise OSError(28, "No space left on device")

        full.setattr(os, "write", write)
        log.write(b"lost\n")
    log.write(b"after\n")
    log.close()
    assert (tmp_path / "log").read_bytes() == (
        b"before\n\n[dcm-processor: 5 bytes lost here: No space left on device]\nafter\n"
    )


@pytest.mark.parametrize("kernel_lists_children", [True, False])
def test_a_family_holds_grandchildren(monkeypatch: pytest.MonkeyPatch, *, kernel_lists_children: bool) -> None:
    """Those that a thread started too."""
    assert reaper._lists_children()
    if not kernel_lists_children:
        monkeypatch.setattr(reaper, "_lists_children", lambda: False)
    start = "subprocess.run(['sleep', '60'])"
    code = f"import subprocess, threading; threading.Thread(target=lambda: {start}).start(); {start}"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as child:
        try:
            wait_until(lambda: len(reaper.family(child.pid)) == 2, what="both have started")
            found = reaper.family(os.getpid())
            assert child.pid in found
            for sleep in reaper.family(child.pid):
                assert found[sleep] == reaper.Process(child.pid, child.pid, ended=False)
            assert 0 < reaper.proportional([child.pid]) <= reaper.resident([child.pid])
        finally:
            os.killpg(child.pid, 9)
    assert child.pid not in reaper.family(os.getpid())


def test_the_kernels_kills_are_counted_somewhere() -> None:
    vmstat = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    counts = [int(vmstat["oom_kill"])] + [
        int(line.split()[1])
        for file in map(Path, reaper._memory_events()) if file.exists()
        for line in file.read_text().splitlines() if line.startswith("oom_kill ")
    ]  # fmt: skip
    assert reaper.OomKills().count() in counts


def test_a_control_group_that_is_gone_counts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    monkeypatch.setattr(reaper, "_memory_events", lambda: [str(tmp_path / "none"), str(tmp_path / "memory.events")])
    kills = reaper.OomKills()
    assert kills.count() == 2
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert kills.count() == 3
    (tmp_path / "memory.events").write_text("")
    assert kills.count() == 0

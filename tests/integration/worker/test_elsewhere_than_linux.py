"""Where there are no subreapers and no /proc (macOS): forced here, since Linux is where these tests run."""

import os
import sys
from pathlib import Path

import pytest

from dcm_processor import process
from scheduler import warden
from tests.integration.worker.conftest import gone
from tests.waiting import wait_until
from worker import contained, reaper
from worker.contained import Command, Contained, End

_SHIM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("reaper", {path!r})
reaper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reaper)
reaper.LINUX = False
reaper.main()
"""
BEGINS = 'import os, subprocess, sys, time\nos.write(3, b\'{"kind": "begins"}\\n\')\n'
CHILD = (
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\nprint(child.pid, flush=True)\n"
)


@pytest.fixture(autouse=True)
def another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "shim.py"
    shim.write_text(_SHIM.format(path=reaper.__file__))
    monkeypatch.setattr(contained, "_REAPER", str(shim))
    monkeypatch.setattr(process, "LINUX", False)


def run(folder: Path, code: str, *, timeout: float = 60, memory: int | None = None) -> tuple[End, str]:
    command = Command(
        argv=[sys.executable, "-I", "-c", BEGINS + code],
        env={},
        cwd=str(folder),
        log=str(folder / "log"),
        log_limit=100_000,
        start_timeout=60,
        timeout=timeout,
        memory=memory,
    )
    with Contained(command) as running:
        end = running.wait()
    return end, (folder / "log").read_text()


def test_a_command_ends_and_what_it_left_in_its_group_goes_with_it(tmp_path: Path) -> None:
    end, log = run(tmp_path, CHILD + "sys.exit(3)\n")
    assert (end.status, end.killed) == (3, None)
    assert end.peak_memory > 1_000_000
    wait_until(lambda: gone(int(log)), 10, "its child is gone")


def test_the_timeout_ends_a_command_with_what_it_started_in_other_groups_too(tmp_path: Path) -> None:
    code = CHILD.replace("'])", "'], start_new_session=True)")
    end, log = run(tmp_path, code + "time.sleep(600)\n", timeout=1)
    assert end.killed == "timeout"
    wait_until(lambda: gone(int(log)), 10, "its child is gone")


def test_memory_is_limited(tmp_path: Path) -> None:
    end, _ = run(tmp_path, "x = bytearray(300_000_000)\ntime.sleep(600)\n", memory=100_000_000)
    assert end.killed == "memory"
    assert end.peak_memory > 100_000_000


def test_nothing_of_a_callbacks_group_is_left(tmp_path: Path) -> None:
    """As a ward: a process that leaves a child behind."""
    note = tmp_path / "pid"

    def leaves_a_child() -> None:
        child = os.fork()
        if child == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])
        note.write_text(f"{child}\n")

    ward = warden.Warden(leaves_a_child, keep=[])
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"), 10, "the child")
    assert ward.end() is not None
    wait_until(lambda: gone(int(note.read_text())), 10, "the child is gone")

"""What runs for a BASEDIR is found by its mark, and ended by nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcm_processor.local.processes import MARK, end_marked, marked
from tests.waiting import wait_until

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@contextmanager
def started(basedir: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the mark of `basedir`, and is gone afterwards."""
    environment = {**os.environ, MARK: str(basedir)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    try:
        wait_until(lambda: process.pid in [found.pid for found in marked(basedir)], 10, "it is seen")
        yield process
    finally:
        end_marked(basedir, patience=0)
        process.communicate()


def test_a_process_of_another_basedir_is_neither_seen_nor_ended(tmp_path: Path) -> None:
    with started(tmp_path / "a", "sleep", "600") as ours, started(tmp_path / "ab", "sleep", "600") as other:
        assert [process.pid for process in marked(tmp_path / "a")] == [ours.pid]
        assert end_marked(tmp_path / "a", patience=10) == []
        assert ours.wait(10) == -15
        assert other.poll() is None


def test_what_ignores_the_request_is_killed_and_told(tmp_path: Path) -> None:
    with started(tmp_path, sys.executable, "-c", STUBBORN) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        killed = end_marked(tmp_path, patience=0.3)
        assert [process.pid for process in killed] == [stubborn.pid]
        assert stubborn.wait(10) == -9


def test_a_daemon_of_a_daemon_is_found(tmp_path: Path) -> None:
    detach = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    with started(tmp_path, sys.executable, "-c", detach) as parent:
        wait_until(lambda: "sleep" in [process.name for process in marked(tmp_path)], 10, "the daemon runs")
        parent.kill()
        parent.wait(10)
        assert [process.name for process in marked(tmp_path)] == ["sleep"]
        end_marked(tmp_path, patience=10)
        assert marked(tmp_path) == []

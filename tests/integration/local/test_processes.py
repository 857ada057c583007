"""What runs for a BASEDIR is found by its mark, and ended by nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from dcm_processor.local.processes import MARK, end_marked, marked

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"


def _start(basedir: Path, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env={**os.environ, MARK: str(basedir)}, stdout=subprocess.PIPE)


def test_a_process_of_another_basedir_is_neither_seen_nor_ended(tmp_path: Path) -> None:
    with _start(tmp_path / "a", "sleep", "600") as ours, _start(tmp_path / "ab", "sleep", "600") as other:
        assert [process.pid for process in marked(tmp_path / "a")] == [ours.pid]
        assert end_marked(tmp_path / "a", patience=10) == []
        assert ours.wait(10) == -15
        assert other.poll() is None
        other.kill()


def test_what_ignores_the_request_is_killed_and_told(tmp_path: Path) -> None:
    with _start(tmp_path, sys.executable, "-c", STUBBORN) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        killed = end_marked(tmp_path, patience=0.3)
        assert [process.pid for process in killed] == [stubborn.pid]
        assert stubborn.wait(10) == -9


def test_a_daemon_of_a_daemon_is_found(tmp_path: Path) -> None:
    detach = "import os, subprocess; os.setsid(); subprocess.Popen(['sleep', '600'], start_new_session=True)"
    with _start(tmp_path, sys.executable, "-c", detach) as parent:
        parent.wait(20)
    assert [process.name for process in marked(tmp_path)] == ["sleep"]
    end_marked(tmp_path, patience=10)
    assert marked(tmp_path) == []

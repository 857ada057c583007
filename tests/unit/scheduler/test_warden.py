"""A ward can be ended at any time, and then nothing of it is left."""

import os
import select
import signal
from pathlib import Path

from scheduler.warden import Warden
from tests.waiting import wait_until


def fork_daemon(pids: Path) -> None:
    """Leave a process behind that has its own session, no parent of ours and no open file."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            pids.write_text(f"{os.getpid()} {os.getppid()}")
            os.closerange(0, 100)
            signal.pause()
        os._exit(0)
    wait_until(pids.exists, what="the daemon")


def test_control_says_that_the_ward_ended_and_end_says_how() -> None:
    warden = Warden(lambda: os._exit(7), [])
    assert select.select([warden.control], [], [], 30)[0]
    status = warden.end()
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_ward_that_does_not_end_is_killed() -> None:
    warden = Warden(signal.pause, [])
    status = warden.end()
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_a_warden_that_was_killed_takes_its_ward_along_and_is_told(tmp_path: Path) -> None:
    read, write = os.pipe()
    warden = Warden(signal.pause, [write])
    os.close(write)
    os.kill(warden.pid, signal.SIGKILL)
    assert os.read(read, 1) == b""  # the ward held the other end
    assert warden.end() is None
    os.close(read)


def test_daemons_that_ended_their_ward_are_gone_when_control_says_so(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    warden = Warden(lambda: fork_daemon(pids), [])
    assert select.select([warden.control], [], [], 30)[0]
    assert not Path("/proc", pids.read_text().split()[0]).exists()
    warden.end()


def test_the_ward_keeps_the_files_it_is_given_and_no_other(tmp_path: Path) -> None:
    read, write = os.pipe()

    def tell() -> None:
        os.write(write, repr({number for number in range(3, 1000) if _is_open(number)} - {write}).encode())

    with (tmp_path / "ledger").open("w"):
        warden = Warden(tell, [write])
        os.close(write)
        assert os.read(read, 100) == b"set()"
    warden.end()
    os.close(read)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

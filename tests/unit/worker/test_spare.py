"""The horse to come: what it is told it becomes, once, and it never outlives its use."""

import os
import signal
from pathlib import Path

import pytest

from tests.integration.worker.conftest import gone
from tests.waiting import wait_until
from worker.spare import Spare


def _nothing() -> None:
    pass


def test_it_becomes_what_it_is_told(tmp_path: Path) -> None:
    def prepare() -> None:
        (tmp_path / "prepared").touch()

    spare = Spare(prepare, lambda what: (tmp_path / what["name"]).touch() or None)
    wait_until((tmp_path / "prepared").exists)
    assert spare.take({"name": "told"})
    assert os.waitpid(spare.pid, 0)[1] == 0
    assert (tmp_path / "told").exists()


def test_one_that_fails_ends_with_an_error(tmp_path: Path) -> None:
    spare = Spare(_nothing, lambda what: what["missing"])
    assert spare.take({})
    assert os.waitstatus_to_exitcode(os.waitpid(spare.pid, 0)[1]) == 1


def test_one_that_was_killed_takes_nothing() -> None:
    spare = Spare(_nothing, lambda _: None)
    os.kill(spare.pid, signal.SIGKILL)
    os.waitid(os.P_PID, spare.pid, os.WEXITED | os.WNOWAIT)
    assert not spare.take({})
    spare.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(spare.pid, 0)


def test_one_that_stands_still_can_be_closed() -> None:
    spare = Spare(_nothing, lambda _: None)
    os.kill(spare.pid, signal.SIGSTOP)
    spare.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(spare.pid, 0)


def test_it_ends_with_whoever_made_it(tmp_path: Path) -> None:
    maker = os.fork()
    if maker == 0:
        try:
            (tmp_path / "pid").write_text(str(Spare(_nothing, lambda _: None).pid))
        finally:
            os._exit(0)
    os.waitpid(maker, 0)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), what="the spare has ended")

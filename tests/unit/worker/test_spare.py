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

    spare = Spare(prepare, _nothing, lambda what: (tmp_path / what["name"]).touch() or None)
    wait_until((tmp_path / "prepared").exists)
    assert spare.take({"name": "told"})
    assert os.waitpid(spare.pid, 0)[1] == 0
    assert (tmp_path / "told").exists()


def test_it_settles_where_nothing_comes_at_once(tmp_path: Path) -> None:
    spare = Spare(_nothing, (tmp_path / "settled").touch, lambda _: None)
    wait_until((tmp_path / "settled").exists)
    assert spare.take({})
    assert os.waitpid(spare.pid, 0)[1] == 0


def test_what_comes_at_once_does_not_wait_for_it_to_settle(tmp_path: Path) -> None:
    """On a busy worker each job would."""
    told = tmp_path / "told"
    spare = Spare(
        lambda: wait_until(told.exists), (tmp_path / "settled").touch, lambda _: (tmp_path / "became").touch()
    )
    assert spare.take({})
    told.touch()
    assert os.waitpid(spare.pid, 0)[1] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"told", "became"}


def test_one_that_fails_ends_with_an_error(tmp_path: Path) -> None:
    spare = Spare(_nothing, _nothing, lambda what: what["missing"])
    assert spare.take({})
    assert os.waitstatus_to_exitcode(os.waitpid(spare.pid, 0)[1]) == 1


def test_one_that_was_killed_takes_nothing() -> None:
    spare = Spare(_nothing, _nothing, lambda _: None)
    os.kill(spare.pid, signal.SIGKILL)
    os.waitid(os.P_PID, spare.pid, os.WEXITED | os.WNOWAIT)
    assert not spare.take({})
    spare.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(spare.pid, 0)


def test_one_that_stands_still_can_be_closed() -> None:
    spare = Spare(_nothing, _nothing, lambda _: None)
    os.kill(spare.pid, signal.SIGSTOP)
    spare.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(spare.pid, 0)


def test_it_ends_with_whoever_made_it(tmp_path: Path) -> None:
    maker = os.fork()
    if maker == 0:
        try:
            (tmp_path / "pid").write_text(str(Spare(_nothing, _nothing, lambda _: None).pid))
        finally:
            os._exit(0)
    os.waitpid(maker, 0)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), what="the spare has ended")

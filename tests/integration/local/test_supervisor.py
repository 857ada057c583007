"""supervisord, for real, with stand-in programs."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dcm_processor import basedir
from dcm_processor.errors import StackError
from dcm_processor.local import configuration
from dcm_processor.local.processes import end_marked, marked
from dcm_processor.local.programs import Program
from dcm_processor.local.supervisor import Status, Supervisor, place_for_socket
from dcm_processor.settings import Settings
from tests.waiting import wait_until


class Running:
    """A supervisord in a BASEDIR whose name tries every reader of configuration."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.model_construct(BASEDIR=folder)
        basedir.prepare(self.settings)
        self.supervisor = Supervisor(place_for_socket(self.settings.run))
        self.file = self.settings.run / "supervisord.conf"

    def configure(self, *names: str) -> None:
        programs = [Program(name, ("sleep", "600"), order=30, kill_group=False) for name in names]
        self.file.write_text(configuration.supervisord_conf(programs, 0o022))

    def start(self) -> None:
        environment = configuration.environment(self.settings, os.environ, self.supervisor.socket)
        self.supervisor.start(self.file, environment)
        programs = len(self.supervisor.status())
        wait_until(lambda: len(marked(self.settings.BASEDIR)) == programs + 1, 10, "all programs run")

    def status(self) -> dict[str, Status]:
        return {program.name: program for program in self.supervisor.status()}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path / "my #1; 100% 'q'")
    found.configure("worker_00", "worker_01")
    found.start()
    yield found
    end_marked(found.settings.BASEDIR, patience=5)


def test_more_and_fewer_workers_leave_the_others_alone(running: Running) -> None:
    before = running.status()
    running.configure("worker_00", "worker_01", "worker_02")
    running.supervisor.reread()
    wait_until(lambda: running.status()["worker_02"].pid, 10)
    assert {name: running.status()[name].pid for name in before} == {name: p.pid for name, p in before.items()}
    running.configure("worker_00")
    running.supervisor.reread()
    assert {name: p.pid for name, p in running.status().items()} == {"worker_00": before["worker_00"].pid}


def test_a_killed_program_comes_back(running: Running) -> None:
    pid = running.status()["worker_00"].pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.status()["worker_00"].pid not in (0, pid), 10)


def test_a_stopped_program_starts_again_when_asked(running: Running) -> None:
    running.supervisor.stop(["worker_00"])
    assert running.status()["worker_00"].pid == 0
    running.supervisor.start_stopped()
    wait_until(lambda: running.status()["worker_00"].pid, 10)


def test_a_program_that_supervisord_starts_again_meanwhile_is_none_to_be_started(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended by itself just as its state was asked for."""
    running.supervisor.stop(["worker_01"])
    seen = [replace(program, state="EXITED") for program in running.supervisor.status()]
    monkeypatch.setattr(running.supervisor, "status", lambda: seen)
    running.supervisor.start_stopped()
    monkeypatch.undo()
    wait_until(lambda: all(program.pid for program in running.status().values()), 10)


def test_shut_down_leaves_no_process_and_no_socket(running: Running) -> None:
    assert len(marked(running.settings.BASEDIR)) == 3
    running.supervisor.shut_down(patience=20)
    assert marked(running.settings.BASEDIR) == []
    assert running.supervisor.alive() is False


def test_when_supervisord_is_killed_its_programs_end_and_a_new_one_starts_over_the_remains(running: Running) -> None:
    (supervisord,) = {p.pid for p in marked(running.settings.BASEDIR)} - {p.pid for p in running.status().values()}
    os.kill(supervisord, signal.SIGKILL)
    wait_until(lambda: not marked(running.settings.BASEDIR), 10, "no program outlives supervisord")
    assert running.supervisor.socket.exists()
    running.start()


def test_a_path_too_long_for_a_socket_gets_a_private_short_one(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    place = place_for_socket(long)
    assert len(str(place)) < 90
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert list(long.iterdir()) == []
    place.parent.rmdir()


def test_supervisord_s_own_words_say_why_it_did_not_start(tmp_path: Path) -> None:
    (tmp_path / "broken.conf").write_text("[supervisord]\nlogfile = /does/not/exist/log\n")
    with pytest.raises(StackError, match=r"supervisord did not start: .*does/not/exist"):
        Supervisor(tmp_path / "socket").start(tmp_path / "broken.conf", os.environ)

"""The spool's way to the scheduler: sent until acknowledged, whatever happens to Redis or to the worker."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dcm_processor.outcome import Outcome
from dcm_processor.transport import LOG_BACKLOG, LOG_CHUNK, LOGS, REPORTS, Report, Transport, parse_report
from dcm_processor.vocabulary import ExitReason
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from worker import outbox
from worker.outbox import Outbox
from worker.spool import BLANK, AttemptFolder

REPORT = Report("started", "job-1", "claim", "worker", "host")


@pytest.fixture
def transport(valkey: ValkeyServer) -> Transport:
    return Transport(valkey.url)


@pytest.fixture
def shipper(tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """An outbox in a hurry, to be stepped by the test."""
    monkeypatch.setattr(outbox, "RESEND_SECONDS", 0.3)
    monkeypatch.setattr(outbox, "_REWIND_SECONDS", 0.3)
    return Outbox(tmp_path, valkey.url)


def attempt(spool: Path, *, log: bytes = b"", ended: bool = True, name: str = "job-1") -> AttemptFolder:
    """What a horse leaves that has died since."""
    report = replace(REPORT, attemptId=name)
    folder = AttemptFolder.create(spool, report)
    folder.log.write_bytes(log)
    if ended:
        folder.keep(report.ended(Outcome(ExitReason.DONE).to_json()))
    os.close(folder.lock)
    return folder


def reports(transport: Transport) -> int:
    return transport.backlog(REPORTS)


def shipped(transport: Transport) -> bytes:
    """What the stream holds, put together by offset; the newest copy wins."""
    log = bytearray()
    for _, entry in transport.read({LOGS: "0"}, block_ms=1, count=10_000).get(LOGS, []):
        offset = int(entry["offset"])
        assert offset <= len(log)
        log[offset:] = entry["chunk"]
    return bytes(log)


def stepped_until(shipper: Outbox, condition: "object", seconds: float = 5) -> None:
    def look() -> bool:
        shipper.step()
        return bool(condition())  # type: ignore[operator]

    wait_until(look, seconds)


def test_an_outcome_is_sent_again_until_it_is_acknowledged(
    tmp_path: Path, shipper: Outbox, transport: Transport
) -> None:
    folder = attempt(tmp_path)
    stepped_until(shipper, lambda: reports(transport) == 3)
    transport.forget_attempts(["job-1"], acknowledge=True)
    stepped_until(shipper, lambda: not folder.path.exists(), 10)
    sent = reports(transport)
    shipper.step()
    assert reports(transport) == sent <= 4


def test_nothing_goes_before_the_log_has_arrived(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    folder = attempt(tmp_path, log=b"hello")
    transport.forget_attempts(["job-1"], acknowledge=True)
    stepped_until(shipper, lambda: shipped(transport) == b"hello")
    for _ in range(20):
        shipper.step()
    assert folder.path.exists()
    transport.log_taken("job-1", 5)
    stepped_until(shipper, lambda: not folder.path.exists(), 10)


def test_a_log_travels_in_chunks_and_never_fills_redis(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    """With nobody receiving, so many entries wait in Redis and no more; the rest waits on disk."""
    log = os.urandom((LOG_BACKLOG + 20) * LOG_CHUNK)
    attempt(tmp_path, log=log)
    for _ in range(LOG_BACKLOG):
        shipper.step()
    assert transport.backlog(LOGS) == LOG_BACKLOG
    first = shipped(transport)
    assert first == log[: LOG_BACKLOG * LOG_CHUNK]
    transport.redis.delete(LOGS)
    transport.log_taken("job-1", len(first))
    stepped_until(shipper, lambda: transport.backlog(LOGS) == 20)
    chunks = [entry["chunk"] for _, entry in transport.read({LOGS: "0"}, block_ms=1)[LOGS]]
    assert first + b"".join(chunks) == log


def test_a_log_that_redis_lost_is_sent_again(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    attempt(tmp_path, log=b"x" * 3 * LOG_CHUNK, ended=False)
    stepped_until(shipper, lambda: transport.backlog(LOGS) == 3)
    transport.redis.flushall()
    transport.log_taken("job-1", LOG_CHUNK)  # one had been received
    stepped_until(shipper, lambda: transport.backlog(LOGS) == 2)
    offsets = [int(entry["offset"]) for _, entry in transport.read({LOGS: "0"}, block_ms=1)[LOGS]]
    assert offsets == [LOG_CHUNK, 2 * LOG_CHUNK]


def test_a_new_worker_goes_on_where_the_dead_one_stopped(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    attempt(tmp_path, log=b"already here, and new")
    transport.log_taken("job-1", 12)
    stepped_until(shipper, lambda: transport.backlog(LOGS) == 1)
    ((_, entry),) = transport.read({LOGS: "0"}, block_ms=1)[LOGS]
    assert (entry["offset"], entry["chunk"]) == (b"12", b", and new")


def test_two_workers_of_a_host_do_not_ship_the_same_folder(
    tmp_path: Path, shipper: Outbox, transport: Transport, valkey: ValkeyServer
) -> None:
    attempt(tmp_path, log=b"once")
    other = Outbox(tmp_path, valkey.url)
    for _ in range(5):
        shipper.step()
        other.step()
    assert transport.backlog(LOGS) == 1


def test_an_attempt_that_runs_is_never_removed(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    folder = AttemptFolder.create(tmp_path, REPORT)
    transport.forget_attempts(["job-1"], acknowledge=True)
    for _ in range(30):
        shipper.step()
    assert folder.path.exists()
    os.close(folder.lock)
    stepped_until(shipper, lambda: not folder.path.exists(), 10)


def test_what_a_dead_horse_left_goes_after_a_day(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    """Its log is shipped at once; the controller decides that the attempt is lost."""
    folder = attempt(tmp_path, log=b"last words", ended=False)
    stepped_until(shipper, lambda: shipped(transport) == b"last words")
    assert reports(transport) == 0
    yesterday = time.time() - outbox.KEEP_SECONDS - 60
    for path in [*folder.path.iterdir(), folder.path]:
        os.utime(path, (yesterday, yesterday))
    stepped_until(shipper, lambda: not folder.path.exists(), 10)


def test_what_a_dead_horse_left_goes_as_soon_as_its_attempt_counts_as_lost(
    tmp_path: Path, shipper: Outbox, transport: Transport
) -> None:
    """Nobody acknowledges an outcome that there is not; its log arrives first."""
    folder = attempt(tmp_path, log=b"a line", ended=False)
    transport.request_cancel([folder.attempt_id])
    stepped_until(shipper, lambda: shipped(transport) == b"a line")
    assert folder.path.exists()
    transport.log_taken(folder.attempt_id, 6)
    stepped_until(shipper, lambda: not folder.path.exists())


def test_an_outcome_is_sent_though_its_attempt_is_to_be_ended(
    tmp_path: Path, shipper: Outbox, transport: Transport
) -> None:
    folder = attempt(tmp_path)
    transport.request_cancel([folder.attempt_id])
    stepped_until(shipper, lambda: reports(transport) == 1)
    assert folder.path.exists()


def test_half_an_outcome_goes_like_none(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    """What a crash in the middle of writing left: the controller decides, and the folder does not stay for ever."""
    folder = attempt(tmp_path, log=b"last words", ended=False)
    (folder.path / "outcome.json").write_text('{"kind": "outc')
    stepped_until(shipper, lambda: shipped(transport) == b"last words")
    assert reports(transport) == 0
    yesterday = time.time() - outbox.KEEP_SECONDS - 60
    for path in [*folder.path.iterdir(), folder.path]:
        os.utime(path, (yesterday, yesterday))
    stepped_until(shipper, lambda: not folder.path.exists(), 10)


def test_an_outcome_outlasts_any_absence_of_the_scheduler(
    tmp_path: Path, shipper: Outbox, transport: Transport
) -> None:
    folder = attempt(tmp_path)
    long_ago = time.time() - 30 * outbox.KEEP_SECONDS
    for path in [*folder.path.iterdir(), folder.path]:
        os.utime(path, (long_ago, long_ago))
    stepped_until(shipper, lambda: reports(transport) == 2)
    assert folder.outcome() is not None


def test_what_is_no_attempt_of_ours_stops_nothing(tmp_path: Path, shipper: Outbox, transport: Transport) -> None:
    (tmp_path / "a file").write_text("x")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "outcome.json").write_text("{")
    (broken / "log").mkdir()
    attempt(tmp_path)
    stepped_until(shipper, lambda: reports(transport) >= 1)


def test_the_thread_outlasts_redis(tmp_path: Path, valkey_server: ValkeyServer, transport: Transport) -> None:
    """Away when it starts, back later: what waits goes then; and it ends when told to."""
    port = valkey_server.port
    valkey_server.stop()
    folder = attempt(tmp_path, log=b"kept")
    shipper = Outbox(tmp_path, f"redis://127.0.0.1:{port}/0")
    shipper.start()
    try:
        valkey_server.start()
        transport.redis.flushall()
        wait_until(lambda: reports(transport) == 1 and shipped(transport) == b"kept", 10)
        transport.forget_attempts(["job-1"], acknowledge=True)
        transport.log_taken("job-1", 4)
        wait_until(lambda: not folder.path.exists(), 10)
    finally:
        shipper.stop()
    assert not shipper._thread.is_alive()


def test_however_many_wait_few_descriptors_are_open_and_each_has_its_turn(
    tmp_path: Path, shipper: Outbox, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the scheduler away attempts go on ending; a process may have 1024 files open, or fewer."""
    monkeypatch.setattr(outbox, "_MOST", 2)
    monkeypatch.setattr(outbox, "_TURN_SECONDS", 0.4)
    names = {f"job-{number}" for number in range(7)}
    for name in names:
        attempt(tmp_path, log=b"hello", name=name)

    def open_files() -> int:
        held = (place.resolve() for place in Path("/proc/self/fd").iterdir())
        return sum(place.name == "shipping" and place.is_relative_to(tmp_path) for place in held)

    def sent() -> set[str]:
        assert open_files() <= 2
        return {parse_report(entry).attemptId for _, entry in transport.read({REPORTS: "0"}, block_ms=1)[REPORTS]}

    stepped_until(shipper, lambda: transport.backlog(REPORTS) and sent() == names, 20)
    transport.forget_attempts(names, acknowledge=True)
    for name in names:
        transport.log_taken(name, 5)
    stepped_until(shipper, lambda: not list(tmp_path.iterdir()), 20)
    assert open_files() == 0


@pytest.mark.parametrize("file", ["outcome.json", "lock"])
def test_what_cannot_be_read_now_is_not_given_up(
    tmp_path: Path, shipper: Outbox, transport: Transport, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Not for want of descriptors, nor for a disk that fails: nobody knows whether it ended, or still runs."""
    monkeypatch.setattr(outbox, "KEEP_SECONDS", 0.0)
    folder = attempt(tmp_path, log=b"hello", ended=file == "outcome.json")
    unreadable, aside = folder.path / file, tmp_path / BLANK
    unreadable.rename(aside)
    unreadable.mkdir()  # root could read a file of any mode
    for _ in range(3):
        shipper.step()
    unreadable.rmdir()
    aside.rename(unreadable)
    assert (folder.path / "log").read_bytes() == b"hello"
    assert (folder.outcome() is not None) == (file == "outcome.json")
    assert reports(transport) == 0

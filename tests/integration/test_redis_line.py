"""A thread's own connection to Redis: whatever happens to it, answers belong to what was asked."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from dcm_processor.redis_line import Line
from dcm_processor.transport import LOGS, WAKE, Transport
from tests.servers import ValkeyServer


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


def number(line: Line) -> int:
    """The connection's, as the server counts them."""
    [found] = line.ask(("CLIENT", "ID"))
    return int(found)


def test_commands_are_answered_in_their_order_and_as_they_stand(client: redis.Redis) -> None:
    line = Line(client)
    assert line.ask(("SET", "a", b"\xff\x00"), ("GET", "a"), ("INCRBY", "n", 7), ("GET", "none")) == [
        b"OK", b"\xff\x00", 7, None,
    ]  # fmt: skip


def test_the_connection_is_kept_and_is_the_threads_own(client: redis.Redis) -> None:
    line, others = Line(client), set[int]()
    thread = threading.Thread(target=lambda: others.add(number(line)))
    mine = number(line)
    thread.start()
    thread.join()
    assert number(line) == mine
    assert others.isdisjoint({mine})


def test_one_that_was_closed_meanwhile_is_replaced(client: redis.Redis) -> None:
    line = Line(client)
    client.client_kill_filter(_id=str(before := number(line)))
    assert number(line) != before


def test_one_that_answers_nothing_any_more_is_replaced(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall forgets what was idle, and tells nobody."""
    line = Line(client)
    before = number(line)
    read = redis.Connection.read_response

    def lost(connection: redis.Connection, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(redis.Connection, "read_response", read)
        raise redis.TimeoutError

    monkeypatch.setattr(redis.Connection, "read_response", lost)
    assert number(line) != before


def test_one_that_was_idle_for_long_is_tried_first(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    line, tried = Line(client), []
    number(line)
    monkeypatch.setattr(redis.Connection, "check_health", lambda _: tried.append(1))
    number(line)
    assert not tried
    monkeypatch.setattr("dcm_processor.redis_line._FRESH", 0.0)
    number(line)
    assert tried


def test_what_redis_refuses_is_no_answer_to_something_else(client: redis.Redis) -> None:
    line = Line(client)
    client.set("text", "x")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        line.ask(("INCR", "text"), ("GET", "text"), ("SET", "done", "1"))
    assert line.ask(("GET", "done")) == [b"1"]


def test_a_server_that_is_gone_is_said(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        line = Line(client)
        line.ask(("PING",))
        server.stop()
        with pytest.raises(redis.ConnectionError):
            line.ask(("PING",))
        server.start()
        assert line.ask(("PING",)) == [b"PONG"]


def test_a_fork_leaves_its_parents_connection_alone(client: redis.Redis) -> None:
    line = Line(client)
    before = number(line)
    if (pid := os.fork()) == 0:
        os._exit(0 if number(line) != before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert number(line) == before


@pytest.mark.parametrize("protocol", [2, 3])
def test_streams_are_read_in_both_protocols(valkey: ValkeyServer, protocol: int) -> None:
    """Redis before 6 knows the older one alone."""
    with closing(Transport(f"{valkey.url}?protocol={protocol}")) as transport:
        for reason in ("one", "another"):
            transport.wake(reason)
        ((first, _), (second, entry)) = transport.read({WAKE: "0", LOGS: "0"}, block_ms=1)[WAKE]
        assert entry == {"reason": b"another"}
        assert transport.read({WAKE: first}, block_ms=1) == {WAKE: [(second, entry)]}
        assert transport.read({WAKE: second}, block_ms=1) == {}

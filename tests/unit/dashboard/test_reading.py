"""The Redis client of the RQ pages refuses changes before it even connects."""

import pytest

from dashboard.reading import ChangeRefusedError, ReadingRedis


@pytest.fixture
def client() -> ReadingRedis:
    return ReadingRedis(host="203.0.113.1", socket_connect_timeout=0.01)  # TEST-NET-3: nobody there


@pytest.mark.parametrize(
    "command",
    [("SET", "k", "v"), ("DEL", "k"), ("RPUSH", "rq:queue:low", "id"), ("HSET", "k", "f", "v"), ("EVAL", "return 1", 0),
     ("FLUSHALL",), ("CONFIG SET", "requirepass", "x"), ("FUNCTION LOAD", "x"), ("XADD", "s", "*", "f", "v"),
     ("get2",)],
)  # fmt: skip
def test_commands_not_known_to_only_read_are_refused(client: ReadingRedis, command: tuple[str, ...]) -> None:
    with pytest.raises(ChangeRefusedError):
        client.execute_command(*command)
    with pytest.raises(ChangeRefusedError):
        client.pipeline().execute_command(*command)  # type: ignore[no-untyped-call]


def test_rqs_tidying_while_it_reads_is_answered_removed_nothing(client: ReadingRedis) -> None:
    assert client.lrem("rq:queue:low", 1, "gone") == 0
    assert client.srem("rq:workers", "rq:worker:dead") == 0
    assert client.zrem("rq:wip:low", "gone") == 0


def test_tidying_in_a_pipeline_keeps_its_place_among_the_answers(client: ReadingRedis) -> None:
    pipeline = client.pipeline()
    pipeline.hgetall("k")
    pipeline.srem("rq:workers", "dead")
    assert [command[0] for command in pipeline.command_stack] == [("HGETALL", "k"), ("EXISTS", "")]

"""The controller's reader of Redis's streams: what it holds back, and how it ends."""

import select

from dcm_processor.transport import Report, Transport
from scheduler.stream import StreamReader
from tests.waiting import wait_until


def rings(reader: StreamReader, seconds: float) -> bool:
    return bool(select.select([reader.bell], [], [], seconds)[0])


def report(transport: Transport, attempt_id: str) -> None:
    transport.report(Report("started", attempt_id, "claim", "worker", "host"))


def test_more_is_read_once_who_took_the_first_is_done_with_it(transport: Transport) -> None:
    reader = StreamReader(transport.url)
    reader.start()
    report(transport, "one")
    assert rings(reader, 10)
    assert len(reader.take()) == 1
    report(transport, "two")
    assert not rings(reader, 0.3)
    assert reader.take() == []
    reader.go_on()
    assert rings(reader, 10)
    assert len(reader.take()) == 1
    reader.close()
    reader.join(10)
    assert not reader.is_alive()


def test_a_reader_that_is_closed_while_it_reads_ends(transport: Transport) -> None:
    reader = StreamReader(transport.url)
    reader.start()
    wait_until(lambda: "xread" in str(transport.redis.client_list()), 10, "it reads")
    reader.close()
    transport.wake("test")
    reader.join(10)
    assert not reader.is_alive()


def test_what_could_not_be_dealt_with_comes_again(transport: Transport) -> None:
    reader = StreamReader(transport.url)
    reader.start()
    report(transport, "one")
    assert rings(reader, 10)
    first = reader.take()
    reader.again()
    reader.go_on()
    assert rings(reader, 10)
    assert reader.take() == first
    reader.close()
    reader.join(10)
    assert not reader.is_alive()

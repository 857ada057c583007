"""Logs that workers ship: what cannot be written of one holds up no other."""

from pathlib import Path
from typing import Any

import pytest

from dcm_processor import identity
from dcm_processor.transport import LOGS, Transport
from scheduler.logs import LogReceiver, log_path
from tests.integration.scheduler.adopted import SERIES, AdoptedPlan


@pytest.mark.parametrize("fault", ["a folder in its place", "a file in its folder's place", "what nobody foresaw"])
def test_a_log_that_cannot_be_written_holds_up_no_other(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])
    bad, good = (identity.job_id(plan.plan_id, "one", series_id) for series_id in SERIES)
    places = {job_id: log_path(tmp_path / "logs", plan.study_id, job_id, 1) for job_id in (bad, good)}
    if fault == "a folder in its place":
        places[bad].mkdir(parents=True)
    elif fault == "a file in its folder's place":
        places[bad].parent.parent.mkdir(parents=True)
        places[bad].parent.touch()
    else:
        write = LogReceiver._write

        def raises(self: LogReceiver, attempt_id: str, *parts: Any) -> int | None:
            if attempt_id.startswith(bad):
                raise ZeroDivisionError
            return write(self, attempt_id, *parts)

        monkeypatch.setattr(LogReceiver, "_write", raises)
    for job_id in (bad, good):
        transport.send_log(identity.attempt_id(job_id, 1), 0, b"a line\n")
    receiver = LogReceiver(transport.url, plan.ledger, tmp_path / "logs")
    receiver.receive(block_ms=1000)
    assert places[good].read_bytes() == b"a line\n"
    assert transport.log_received(identity.attempt_id(bad, 1)) == 0  # its worker sends it again
    assert transport.backlog(LOGS) == 0


def test_logs_for_which_there_is_no_room_wait(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = AdoptedPlan(tmp_path, transport, [{"jobName": "one"}])
    attempt_id = identity.attempt_id(identity.job_id(plan.plan_id, "one", SERIES[0]), 1)
    transport.send_log(attempt_id, 0, b"a line\n")
    receiver = LogReceiver(transport.url, plan.ledger, tmp_path / "logs")

    opened: Any = Path.open

    def full(path: Path, *args: Any, **keywords: Any) -> Any:
        if path.suffix == ".log":
            raise OSError(28, "No space left on device")
        return opened(path, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            receiver.receive(block_ms=1000)
    receiver.receive(block_ms=1000)
    assert transport.log_received(attempt_id) == len(b"a line\n")

"""What the platform stands on is away or full: no job fails of it, however long it lasts."""

from pathlib import Path

import pytest

from dcm_processor import judgement
from dcm_processor.vocabulary import EventKind, ExitReason, RepairKind
from scheduler.results import Results
from tests.integration.scheduler.platform import YES, HandWorker, Platform, hasten, send
from tests.servers import OrthancServer
from tests.waiting import wait_until


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "OUTAGE_INTERVALS", (0.1,))


def test_an_outage_is_outlasted_and_said_to_be_the_reason(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    worker.end(worker.start().attemptId, ExitReason.OUTAGE, error="Orthanc is away")
    wait_until(lambda: platform.states(study.study_id) == {"a": "retrying"}, 10)
    assert platform.jobs(study.study_id)["a"]["reason"] == "an outage: Orthanc is away; tried again until that ends"
    assert platform.study(study.study_id)["state"] == "running"


@pytest.mark.usefixtures("soon")
def test_an_outage_uses_up_no_try_and_what_comes_after_it_is_judged_as_if_it_had_not_been(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    retry = {"max": 1, "interval": [0]}
    platform.install("svc", [{"jobName": "a", "retry": retry}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    reasons = [*[ExitReason.OUTAGE] * 5, ExitReason.EXCEPTION, *[ExitReason.OUTAGE] * 5, ExitReason.EXCEPTION]
    for reason in reasons:
        worker.end(worker.start().attemptId, reason, error="x")
    platform.wait_for(study.study_id, "failed")
    job = platform.jobs(study.study_id)["a"]
    assert job["reason"] == "the function raised: x (tried 2 times)"
    states = [attempt["state"] for attempt in job["attempts"]]
    assert states == ["failed" if reason is ExitReason.EXCEPTION else "handed_back" for reason in reasons]


def test_results_that_could_not_be_put_in_their_place_are_put_there_later(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(Results, "_publish", refuse)
        platform.announce(study.study_id)
        worker = HandWorker(platform)
        worker.run()
        wait_until(lambda: platform.states(study.study_id) == {"a": "finished", "b": "queued"}, 10)
    hasten(monkeypatch)
    worker.run()
    platform.wait_for(study.study_id, "finished")
    assert platform.counted()[RepairKind.RESULT_UNPUBLISHED] >= 1


def test_results_that_could_not_be_put_in_their_place_do_not_take_that_of_newer_ones(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    publish, made = Results._publish, []

    def refuse_the_first(self: Results, path: Path, place: Path) -> None:
        made.append(path)
        if path == made[0]:
            raise OSError(1, "Operation not permitted")
        publish(self, path, place)

    with monkeypatch.context() as broken:
        broken.setattr(Results, "_publish", refuse_the_first)
        worker.run(text="older")
        platform.wait_for(study.study_id, "finished")
        platform.ledger.record_event(EventKind.RERUN, study.study_id)
        platform.transport.wake("test")
        worker.run(text="newer")
        place = platform.settings.data / "results" / study.study_id / "a" / "result.txt"
        wait_until(place.exists, 10, "the newer ones are there")
    platform.stop()
    platform.start()
    wait_until(lambda: not made[0].exists(), 10, "the older ones are dealt with")
    assert place.read_text() == "newer"
    assert (made[0].with_name(f"{made[0].name}.replaced") / "result.txt").read_text() == "older"

"""A study that is not complete is held back until it is, or until its limit has passed; nothing of it is lost."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import select, update

from dcm_processor.ledger import repairs, schema
from dcm_processor.vocabulary import EventKind, RepairKind
from scheduler import controller
from tests.dicom import StudyFiles, make_study, upload
from tests.integration.scheduler.platform import YES, HandWorker, Platform
from tests.servers import OrthancServer
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(controller.EVERY, "holds", 0.1)


def expect(platform: Platform, **rule: Any) -> None:
    """Have one rule about CT studies."""
    write(platform, json.dumps([{"name": "CT", "match": {"Modality": "CT"}, "limit": "1h", **rule}]))


def write(platform: Platform, text: str) -> None:
    path = platform.settings.completeness
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def three_series(folder: Path) -> StudyFiles:
    """A study whose files are one instance a series."""
    return make_study(folder, series=[{"Modality": "CT", "instances": 1}] * 3)


def sent(platform: Platform, orthanc: OrthancServer, study: StudyFiles, start: int, end: int) -> None:
    upload(orthanc.url, orthanc.auth, study.files[start:end])
    platform.announce(study.study_id)


def until(platform: Platform, study: StudyFiles) -> float | None:
    with platform.ledger.read() as db:
        query = select(schema.studies.c.hold_until).where(schema.studies.c.study_id == study.study_id)
        return db.execute(query).scalar_one()


def set_until(platform: Platform, study: StudyFiles, moment: float) -> None:
    with platform.ledger.write() as db:
        db.execute(update(schema.studies).where(schema.studies.c.study_id == study.study_id).values(hold_until=moment))


def test_a_study_waits_until_it_is_complete_and_its_limit_counts_from_the_beginning(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    expect(platform, series=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 1)
    found = platform.wait_for(study.study_id, "waiting")
    assert found["reason"].startswith('held: 1 of 3 series (rule "CT"); planned as it is at ')
    assert (found["plans"], found["unplanned"]) == ([], found["reason"])
    first = until(platform, study)
    assert first is not None
    assert 3500 < first - time.time() <= 3600
    sent(platform, orthanc, study, 1, 2)
    wait_until(lambda: "2 of 3 series" in str(platform.study(study.study_id)["reason"]), 20)
    assert until(platform, study) == pytest.approx(first, abs=0.001), "not anew with each arrival"
    sent(platform, orthanc, study, 2, 3)
    HandWorker(platform).run()
    found = platform.wait_for(study.study_id, "finished")
    assert (found["holdUntil"], found["unplanned"]) == (None, None)
    assert [plan["numberOfInstances"] for plan in found["plans"]] == [3]


def test_when_its_limit_passes_a_study_is_planned_as_it_is_and_the_plan_says_so(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    expect(platform, series=3, limit=6)  # well after the change by which Orthanc itself calls the study stable
    study = three_series(tmp_path / "study")
    began = time.time()
    sent(platform, orthanc, study, 0, 2)
    platform.wait_for(study.study_id, "waiting")
    HandWorker(platform).run()
    assert time.time() - began >= 6
    [plan] = platform.wait_for(study.study_id, "finished")["plans"]
    assert plan["reason"] == 'limit; incomplete: 2 of 3 series (rule "CT")'


def test_a_study_that_is_held_is_planned_at_once_by_a_rerun(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    expect(platform, series=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 1)
    platform.wait_for(study.study_id, "waiting")
    platform.ledger.record_event(EventKind.RERUN, study.study_id)
    HandWorker(platform).run()
    found = platform.wait_for(study.study_id, "finished")
    assert found["plans"][0]["reason"] == 'rerun; incomplete: 1 of 3 series (rule "CT")'
    assert found["holdUntil"] is None


def test_a_study_that_grew_and_is_held_keeps_its_plan_running_and_then_waits(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """Its limit counts anew: the plan ended the first hold."""
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 1)
    worker = HandWorker(platform)
    order = worker.start()
    wait_until(lambda: platform.states(study.study_id) == {"a": "started"}, 10)
    expect(platform, series=3)
    sent(platform, orthanc, study, 1, 2)
    wait_until(lambda: platform.study(study.study_id)["holdUntil"], 20, "it is held")
    found = platform.study(study.study_id)
    assert (found["state"], len(found["plans"])) == ("running", 1)
    assert found["unplanned"].startswith("held: 2 of 3 series")
    worker.end(order.attemptId)
    found = platform.wait_for(study.study_id, "waiting")
    assert found["reason"].startswith("held: 2 of 3 series")
    assert platform.states(study.study_id) == {"a": "finished"}
    sent(platform, orthanc, study, 2, 3)
    worker.run()
    found = platform.wait_for(study.study_id, "finished")
    assert [plan["numberOfInstances"] for plan in found["plans"]] == [3, 1]


def test_a_job_of_the_old_plan_that_runs_again_does_not_end_the_hold(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 1)
    worker = HandWorker(platform)
    order = worker.run()
    platform.wait_for(study.study_id, "finished")
    expect(platform, series=3)
    sent(platform, orthanc, study, 1, 2)
    platform.wait_for(study.study_id, "waiting")
    before = until(platform, study)
    platform.ledger.record_event(EventKind.RERUN, study.study_id, {"jobIds": [order.jobId]})
    worker.run()
    found = platform.wait_for(study.study_id, "waiting")
    assert len(found["plans"]) == 2
    assert found["reason"].startswith("held: 2 of 3 series")
    assert until(platform, study) == before


def test_rules_that_change_are_in_force_at_once_for_studies_that_are_held(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    expect(platform, series=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 2)
    platform.wait_for(study.study_id, "waiting")
    expect(platform, series=4)
    wait_until(lambda: "2 of 4 series" in str(platform.study(study.study_id)["reason"]), 20)
    platform.settings.completeness.unlink()
    found = platform.wait_for(study.study_id, "finished")
    assert "rules" in found["plans"][0]["reason"].split(", ")  # and /changes may tell of it at the same time


def test_rules_that_changed_while_nobody_looked_are_noticed(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    expect(platform, series=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 2)
    platform.wait_for(study.study_id, "waiting")
    platform.stop()
    expect(platform, series=2)
    platform.start()
    platform.wait_for(study.study_id, "finished")


def test_rules_that_cannot_be_read_make_studies_wait_and_say_why_until_they_can(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    write(platform, '[{"name": "CT", "match": {"Modality": "CT"}, "serie": 3, "limit": "1h"}]')
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 2)
    found = platform.wait_for(study.study_id, "waiting")
    assert found["reason"] == ('completeness.json: [0].serie: is no field of a rule; did you mean "series"?')
    other = three_series(tmp_path / "other")
    upload(orthanc.url, orthanc.auth, other.files)
    platform.ledger.record_event(EventKind.RERUN, other.study_id)
    platform.wait_for(other.study_id, "finished")  # a person's wish does not wait
    expect(platform, series=2)
    assert platform.wait_for(study.study_id, "finished")["plans"][0]["numberOfInstances"] == 2


def test_a_study_is_not_held_for_longer_because_the_clock_was_set_back(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    expect(platform, series=3, limit=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 2)
    platform.wait_for(study.study_id, "waiting")
    set_until(platform, study, time.time() + 86_400)
    platform.wait_for(study.study_id, "finished")
    with platform.ledger.read() as db:
        assert repairs.counted(db)[RepairKind.DUE_TOO_LATE] == 1


def test_a_study_that_was_deleted_while_it_was_held_is_held_no_longer(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    expect(platform, series=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 2)
    platform.wait_for(study.study_id, "waiting")
    requests.delete(f"{orthanc.url}/studies/{study.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
    set_until(platform, study, time.time())
    found = platform.wait_for(study.study_id, "unplanned")
    assert (found["holdUntil"], "Orthanc does not hold" in found["reason"]) == (None, True)


def test_a_controller_that_was_away_when_the_limit_passed_plans_it_when_it_comes_back(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    expect(platform, series=3)
    study = three_series(tmp_path / "study")
    sent(platform, orthanc, study, 0, 2)
    platform.wait_for(study.study_id, "waiting")
    platform.stop()
    set_until(platform, study, time.time() - 1)
    platform.start()
    [plan] = platform.wait_for(study.study_id, "finished")["plans"]
    why = plan["reason"].removeprefix("change, ")  # Orthanc may have found it stable while the controller was away
    assert why == 'limit; incomplete: 2 of 3 series (rule "CT")'

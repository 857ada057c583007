"""What hook and changes cannot tell is found by comparing a real Orthanc with the ledger, and nothing else is."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import update

from dcm_processor.ledger import repairs, schema
from dcm_processor.vocabulary import RepairKind
from scheduler import changes, comparison
from tests.dicom import StudyFiles, make_study, upload
from tests.integration.scheduler.platform import Platform, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancServer]:
    """An Orthanc of one's own whose studies take long to become stable, and do at once when it is restarted."""
    with OrthancServer(tmp_path / "orthanc", {"StableAge": 3600}) as server:
        yield server


@pytest.fixture
def platform(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    """One that has met Orthanc, and has led; it is stopped."""
    monkeypatch.setattr(changes, "EVERY", 0.2)
    platform = Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=3600)
    compared_by(platform)
    yield platform
    platform.stop()


def compared_by(platform: Platform) -> None:
    """Have the platform compare all studies once, then stop."""
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        _tell_of_comparisons(patch, done)
        with platform:
            wait_until(lambda: done, 20, "the studies were compared")


def _tell_of_comparisons(patch: pytest.MonkeyPatch, done: list[int]) -> None:
    step = comparison.Comparison.step

    def and_tell(self: comparison.Comparison) -> int:
        found = step(self)
        if self._pages is None:
            done.append(found)
        return found

    patch.setattr(comparison.Comparison, "step", and_tell)


def forget_changes(orthanc: OrthancServer) -> None:
    requests.delete(f"{orthanc.url}/changes", auth=orthanc.auth, timeout=10).raise_for_status()


def unnoticed(platform: Platform) -> int:
    with platform.ledger.read() as db:
        return repairs.counted(db)[RepairKind.STUDY_UNNOTICED]


def events(platform: Platform, study: StudyFiles) -> list[str]:
    return [event["kind"] for event in platform.study(study.study_id).get("events", [])]


def planned(platform: Platform, orthanc: OrthancServer, folder: Path) -> StudyFiles:
    """A study that the platform has planned after its hook; Orthanc calls it stable, and has no change of it."""
    study = send(orthanc, folder)
    announced_alone(platform, orthanc, study)
    return study


def announced_alone(platform: Platform, orthanc: OrthancServer, study: StudyFiles) -> None:
    orthanc.restart()
    forget_changes(orthanc)
    platform.announce(study.study_id)
    with platform:
        platform.wait_for(study.study_id, "finished")


def more_of(study: StudyFiles, orthanc: OrthancServer, folder: Path) -> None:
    upload(orthanc.url, orthanc.auth, make_study(folder, StudyInstanceUID=study.study_instance_uid).files)


def test_a_study_that_no_change_tells_of_is_found_when_leading_begins(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """It came while nobody led; Orthanc was restarted before it was stable, and its changes were cleared."""
    study = send(orthanc, tmp_path / "study")
    orthanc.restart()
    forget_changes(orthanc)
    with platform:
        found = platform.wait_for(study.study_id, "finished")
    assert [plan["reason"] for plan in found["plans"]] == ["found"]
    assert unnoticed(platform) == 1
    compared_by(platform)
    assert (events(platform, study), unnoticed(platform)) == (["found"], 1)


def test_a_study_that_grew_and_no_change_tells_of_it_is_planned_again(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """One that the platform had planned, and one that was there before it."""
    study = planned(platform, orthanc, tmp_path / "study")
    more_of(study, orthanc, tmp_path / "more")
    orthanc.restart()
    forget_changes(orthanc)
    with platform:
        wait_until(lambda: len(platform.study(study.study_id)["plans"]) == 2, 20, "it is planned again")
    assert unnoticed(platform) == 1


def test_a_known_study_that_grew_unnoticed_is_planned_and_others_stay_known(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer
) -> None:
    grows, stays = send(orthanc, tmp_path / "grows"), send(orthanc, tmp_path / "stays")
    orthanc.restart()
    platform = Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=3600)
    compared_by(platform)
    assert [platform.study(each.study_id)["state"] for each in (grows, stays)] == ["known", "known"]
    more_of(grows, orthanc, tmp_path / "more")
    orthanc.restart()
    forget_changes(orthanc)
    with platform:
        platform.wait_for(grows.study_id, "finished")
    compared_by(platform)
    assert platform.study(stays.study_id)["state"] == "known"
    assert unnoticed(platform) == 1


def test_a_study_that_is_not_stable_yet_is_waited_for(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = send(orthanc, tmp_path / "study")
    forget_changes(orthanc)
    compared_by(platform)
    with platform.ledger.read() as db:
        row = db.execute(schema.studies.select().where(schema.studies.c.study_id == study.study_id)).mappings().one()
    assert (row["state"], row["stable_due_at"] is not None) == ("received", True)
    assert (events(platform, study), unnoticed(platform)) == ([], 0)


def test_changes_that_are_cleared_while_orthanc_cannot_be_read_are_made_up_for(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    _tell_of_comparisons(monkeypatch, done)
    with platform:
        wait_until(lambda: done, 20, "compared")
        url, away = platform.settings.orthanc_url, "http://127.0.0.1:1"
        rest: Any = platform._controller._orthanc._rest  # type: ignore[union-attr]
        rest._url = away
        study = send(orthanc, tmp_path / "study")
        orthanc.restart()
        forget_changes(orthanc)
        rest._url = url
        platform.wait_for(study.study_id, "finished")
        wait_until(lambda: len(done) == 2, 10, "compared to the end")
        seen = platform.study(study.study_id)["events"]
        assert [event["kind"] for event in seen] == ["found"]
        forget_changes(orthanc)  # nothing came since
        other = send(orthanc, tmp_path / "other")
        wait_until(lambda: platform.study(other.study_id)["state"] == "received", 10, "its changes are read")
    assert len(done) == 2, "nothing was compared where the changes go on"


def test_changes_of_studies_that_were_deleted_are_no_gap(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    _tell_of_comparisons(monkeypatch, done)
    send(orthanc, tmp_path / "stays")
    with platform:
        gone = send(orthanc, tmp_path / "gone", PatientID="GONE")
        wait_until(lambda: platform.study(gone.study_id)["state"] == "received", 10)
        wait_until(lambda: done, 20, "compared")
        requests.delete(f"{orthanc.url}/studies/{gone.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
        other = send(orthanc, tmp_path / "other", PatientID="OTHER")
        wait_until(lambda: platform.study(other.study_id)["state"] == "received", 10)
    assert len(done) == 1


def test_changes_that_are_too_many_are_not_read_but_made_up_for(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And followed again from where they ended."""
    monkeypatch.setattr(changes, "FAR", 50)
    monkeypatch.setattr(changes, "_PAGE", 10)
    sent = [send(orthanc, tmp_path / f"{n}", PatientID=f"P{n}") for n in range(20)]
    orthanc.restart()
    with platform:
        for study in sent:
            platform.wait_for(study.study_id, "finished")
        assert {kind for study in sent for kind in events(platform, study)} == {"found"}
        later = send(orthanc, tmp_path / "later", PatientID="LATER")
        wait_until(lambda: platform.study(later.study_id)["state"] == "received", 10)
    assert unnoticed(platform) == 20


def test_a_study_deleted_from_orthanc_is_no_difference(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = planned(platform, orthanc, tmp_path / "study")
    requests.delete(f"{orthanc.url}/studies/{study.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
    before = events(platform, study)
    compared_by(platform)
    assert (events(platform, study), unnoticed(platform)) == (before, 0)


def test_of_a_restored_orthanc_nothing_old_is_planned_and_what_the_ledger_has_stands(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """The copy holds less of one study, and one that was deleted before the platform saw it; neither is new."""
    old = send(orthanc, tmp_path / "old", PatientID="OLD")
    study = send(orthanc, tmp_path / "study")
    orthanc.stop()
    shutil.copytree(orthanc.directory / "storage", tmp_path / "copy")
    orthanc.start()
    requests.delete(f"{orthanc.url}/studies/{old.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
    more_of(study, orthanc, tmp_path / "more")
    announced_alone(platform, orthanc, study)
    orthanc.stop()
    shutil.rmtree(orthanc.directory / "storage")
    shutil.copytree(tmp_path / "copy", orthanc.directory / "storage")
    orthanc.start()
    before = events(platform, study)
    compared_by(platform)
    compared_by(platform)
    assert (events(platform, study), events(platform, old), unnoticed(platform)) == (before, [], 0)
    assert platform.study(old.study_id)["state"] == "known"
    more_of(study, orthanc, tmp_path / "yet more")
    orthanc.restart()
    forget_changes(orthanc)
    compared_by(platform)
    assert events(platform, study) == ["found", *before]


def test_a_ledger_from_before_comparisons_takes_its_studies_as_they_are(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = planned(platform, orthanc, tmp_path / "study")
    with platform.ledger.write() as db:
        db.execute(update(schema.studies).values(last_update=None))
    before = events(platform, study)
    compared_by(platform)
    assert (events(platform, study), unnoticed(platform)) == (before, 0)
    more_of(study, orthanc, tmp_path / "more")
    orthanc.restart()
    forget_changes(orthanc)
    compared_by(platform)
    assert unnoticed(platform) == 1


def test_a_study_that_came_while_the_first_contact_was_interrupted_is_new(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes are followed from where they stood when it began."""
    old = send(orthanc, tmp_path / "old", PatientID="OLD")
    orthanc.restart()
    platform = Platform(tmp_path / "base", valkey, orthanc, STABLE_AGE=3600)
    tried: list[int] = []

    def die(*_: object) -> None:
        tried.append(1)
        raise KeyError

    with monkeypatch.context() as patch, platform:
        patch.setattr(changes, "pages", die)
        wait_until(lambda: tried, 10, "it is met")
    study = send(orthanc, tmp_path / "study")
    with platform:
        wait_until(lambda: platform.study(study.study_id)["state"] is not None, 10)
        due = schema.studies.select().where(schema.studies.c.stable_due_at.is_not(None))

        def expected() -> list[str]:
            with platform.ledger.read() as db:
                return [row["study_id"] for row in db.execute(due).mappings()]

        wait_until(lambda: expected() == [study.study_id], 10, "the new one is waited for")
        assert platform.study(old.study_id)["state"] == "known"

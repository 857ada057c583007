"""A study's files on a host, with a stand-in for Orthanc: what is fetched, kept, removed, and never half there."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from dcm_processor.errors import DataFullError, OrthancUnavailableError, PermanentError, StudyGoneError
from dcm_processor.orthanc import Orthanc, StoredFile
from dcm_processor.transport import PlanOrder
from tests.waiting import wait_until
from worker import studies
from worker.studies import fetch


def orthanc_id(name: str) -> str:
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[i : i + 8] for i in range(0, 40, 8))


STUDY, MR, CT = orthanc_id("study"), orthanc_id("mr"), orthanc_id("ct")
MR_1, MR_2, MR_3, CT_1 = (orthanc_id(name) for name in ("mr 1", "mr 2", "mr 3", "ct 1"))


class StandIn:
    """Holds files; counts what it is asked; `before_write` may do harm."""

    def __init__(self, **_: Any) -> None:
        self.contents = {instance: f"content of {instance}".encode() for instance in (MR_1, MR_2, MR_3, CT_1)}
        self.listed = 0
        self.downloaded: list[str] = []
        self.before_write: Callable[[str], None] = lambda _instance: None

    def files(self, study_id: str) -> dict[str, StoredFile]:
        assert study_id == STUDY
        self.listed += 1
        return {
            instance: StoredFile(hashlib.sha1(content).hexdigest(), len(content))
            for instance, content in self.contents.items()
        }

    def download(self, instance_id: str, file: BinaryIO) -> int:
        if instance_id not in self.contents:
            raise StudyGoneError("Orthanc does not hold the instance (any more)")
        content = self.contents[instance_id]
        file.write(content[:5])
        self.before_write(instance_id)
        file.write(content[5:])
        self.downloaded.append(instance_id)
        return len(content)


@pytest.fixture
def orthanc() -> StandIn:
    return StandIn()


def plan(plan_id: str = "plan-1", **instances: list[str]) -> PlanOrder:
    pinned = {MR: [MR_1, MR_2], CT: [CT_1]} if not instances else {orthanc_id(k): v for k, v in instances.items()}
    return PlanOrder(planId=plan_id, studyId=STUDY, headers={}, selected=[], instances=pinned)


def get(orthanc: StandIn, data: Path, order: PlanOrder, series_id: str | None = None, **options: Any) -> Path:
    return fetch(cast("Orthanc", orthanc), data, order, series_id, **options)


def shown(folder: Path) -> dict[str, str]:
    """What a job sees, however it looks: path -> content."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if not p.is_dir()}


def path(series_id: str, instance_id: str) -> str:
    return f"{series_id}/{instance_id}.dcm"


def test_a_study_job_sees_the_pinned_instances_read_only(orthanc: StandIn, tmp_path: Path) -> None:
    """DATA/dicom/<studyId>/<seriesId>/<instanceId>.dcm, and no other file in it."""
    folder = get(orthanc, tmp_path, plan())
    assert folder == tmp_path / "dicom" / STUDY
    assert shown(folder) == {
        path(series, instance): f"content of {instance}" for series, instance in ((CT, CT_1), (MR, MR_1), (MR, MR_2))
    }
    assert {file.stat().st_mode & 0o777 for file in folder.rglob("*.dcm")} == {0o444}


def test_a_series_job_needs_only_its_series(orthanc: StandIn, tmp_path: Path) -> None:
    folder = get(orthanc, tmp_path, plan(), CT)
    assert folder == tmp_path / "dicom" / STUDY / CT
    assert shown(folder) == {f"{CT_1}.dcm": f"content of {CT_1}"}
    assert orthanc.downloaded == [CT_1]


def test_what_is_here_is_not_fetched_again(orthanc: StandIn, tmp_path: Path) -> None:
    """The jobs of a plan share one fetch; the second asks Orthanc for nothing and works while it is away."""
    get(orthanc, tmp_path, plan(), CT)
    get(orthanc, tmp_path, plan())
    get(orthanc, tmp_path, plan())
    assert sorted(orthanc.downloaded) == sorted([CT_1, MR_1, MR_2])
    assert orthanc.listed == 1
    get(orthanc, tmp_path, plan("plan-2"))
    assert len(orthanc.downloaded) == 3
    assert orthanc.listed == 2


def test_a_study_that_grew_shows_each_plan_its_own_instances(orthanc: StandIn, tmp_path: Path) -> None:
    """The new plan gets the new instance; rerunning the old one does not see it."""
    get(orthanc, tmp_path, plan())
    grown = get(orthanc, tmp_path, plan("plan-2", mr=[MR_1, MR_2, MR_3], ct=[CT_1]))
    assert path(MR, MR_3) in shown(grown)
    assert len(orthanc.downloaded) == 4
    again = get(orthanc, tmp_path, plan("plan-3"))
    assert path(MR, MR_3) not in shown(again)
    shrunk = get(orthanc, tmp_path, plan("plan-4", ct=[CT_1]))
    assert [entry.name for entry in shrunk.iterdir()] == [CT]


def test_what_a_job_left_in_the_folder_is_not_shown_to_the_next(orthanc: StandIn, tmp_path: Path) -> None:
    """Files, folders and links; what a link points to is left alone."""
    folder = get(orthanc, tmp_path, plan())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    (folder / "notes.txt").write_text("x")
    (folder / "link").symlink_to(elsewhere)
    (folder / MR / "deep" / "er").mkdir(parents=True)
    (folder / MR / f"{MR_1}.dcm").unlink()
    (folder / MR / f"{MR_1}.dcm").symlink_to(elsewhere / "precious")
    (folder / MR / f"{MR_2}.dcm").unlink()
    (folder / MR / f"{MR_2}.dcm").mkdir()
    (folder / CT / f"{CT_1}.dcm").unlink()
    (folder / CT).rmdir()
    (folder / CT).symlink_to(elsewhere)
    get(orthanc, tmp_path, plan())
    assert sorted(shown(folder)) == sorted([path(CT, CT_1), path(MR, MR_1), path(MR, MR_2)])
    assert not any(file.is_symlink() for file in folder.rglob("*"))
    assert shown(elsewhere) == {"precious": "kept"}
    (folder / CT / f"{CT_1}.dcm").unlink()
    (folder / CT).rmdir()
    (folder / CT).write_text("a file where a folder belongs")
    get(orthanc, tmp_path, plan())
    assert path(CT, CT_1) in shown(folder)


def test_a_study_that_was_sent_again_corrected_is_fetched_again(orthanc: StandIn, tmp_path: Path) -> None:
    """Same UIDs, same identifiers, other content: only what changed is fetched."""
    get(orthanc, tmp_path, plan())
    orthanc.contents[MR_1] = f"CONTENT of {MR_1}".encode()  # of the same size
    folder = get(orthanc, tmp_path, plan("plan-2"), CT)
    assert not (tmp_path / "dicom" / STUDY / path(MR, MR_1)).exists()
    folder = get(orthanc, tmp_path, plan("plan-2"))
    assert shown(folder)[path(MR, MR_1)] == f"CONTENT of {MR_1}"
    assert orthanc.downloaded[3:] == [MR_1]


def test_a_file_that_changes_while_it_is_fetched_is_compared_anew(orthanc: StandIn, tmp_path: Path) -> None:
    stored = orthanc.files(STUDY)
    orthanc.files = lambda study_id: {**stored, MR_1: StoredFile("old", 3)}  # type: ignore[method-assign]
    with pytest.raises(OrthancUnavailableError):
        get(orthanc, tmp_path, plan())
    del orthanc.files  # type: ignore[method-assign]
    assert path(MR, MR_1) in shown(get(orthanc, tmp_path, plan()))


@pytest.mark.parametrize("size", [0, 5])
def test_a_file_that_a_power_failure_cut_is_fetched_again(orthanc: StandIn, tmp_path: Path, size: int) -> None:
    folder = get(orthanc, tmp_path, plan())
    (folder / path(MR, MR_1)).chmod(0o644)
    os.truncate(folder / path(MR, MR_1), size)
    get(orthanc, tmp_path, plan())
    assert shown(folder)[path(MR, MR_1)] == f"content of {MR_1}"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"planId": "plan-1", "files": {"a": 1}}'])
def test_a_record_that_cannot_be_read_costs_a_fetch_and_no_more(orthanc: StandIn, tmp_path: Path, record: str) -> None:
    folder = get(orthanc, tmp_path, plan())
    (tmp_path / "dicom" / ".copies" / f"{STUDY}.json").write_text(record)
    get(orthanc, tmp_path, plan())
    assert len(shown(folder)) == 3
    assert len(orthanc.downloaded) == 6


def test_what_orthanc_no_longer_holds_is_gone(orthanc: StandIn, tmp_path: Path) -> None:
    """A deleted instance ends the jobs that need it, at once and with a count; others run."""
    del orthanc.contents[MR_2]
    with pytest.raises(StudyGoneError, match="1 of the 3 instances"):
        get(orthanc, tmp_path, plan())
    with pytest.raises(StudyGoneError, match="1 of the 2 instances"):
        get(orthanc, tmp_path, plan(), MR)
    assert orthanc.downloaded == []
    assert shown(get(orthanc, tmp_path, plan(), CT)) == {f"{CT_1}.dcm": f"content of {CT_1}"}


def test_what_is_deleted_during_the_fetch_is_gone(orthanc: StandIn, tmp_path: Path) -> None:
    orthanc.before_write = lambda _: orthanc.contents.pop(MR_2, None)  # type: ignore[assignment,return-value]
    with pytest.raises(StudyGoneError):
        get(orthanc, tmp_path, plan(), connections=1)


def test_a_full_disk_is_said_before_it_is_filled(
    orthanc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which folder, what is needed, what is free."""
    monkeypatch.setattr(studies.shutil, "disk_usage", lambda _: _Usage(free=100))
    with pytest.raises(DataFullError) as caught:
        get(orthanc, tmp_path, plan())
    assert str(tmp_path) in str(caught.value)
    needed = sum(len(orthanc.contents[instance]) for instance in (MR_1, MR_2, CT_1))
    assert f"{needed} bytes are needed, 100 bytes are free" in str(caught.value)
    assert orthanc.downloaded == []


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_during_the_fetch(orthanc: StandIn, tmp_path: Path, number: int) -> None:
    """A transient error that names DATA, nothing half there, and the next fetch goes on where this one ended."""

    def fill(instance_id: str) -> None:
        if instance_id == MR_2:
            raise OSError(number, os.strerror(number))

    orthanc.before_write = fill
    with pytest.raises(DataFullError, match=r"DATA \(.*\) has no room for the study's files: \d+ bytes are free"):
        get(orthanc, tmp_path, plan(), connections=1)
    assert path(MR, MR_2) not in shown(tmp_path / "dicom" / STUDY)
    assert not (tmp_path / "dicom" / ".copies" / f"{STUDY}.part").exists()
    orthanc.before_write = lambda _: None
    assert len(shown(get(orthanc, tmp_path, plan()))) == 3
    assert sorted(orthanc.downloaded) == sorted([MR_1, MR_2, CT_1])


def test_another_fault_of_the_disk_is_not_taken_for_a_full_one(orthanc: StandIn, tmp_path: Path) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EIO, "input/output error")

    orthanc.before_write = fail
    with pytest.raises(OSError, match="input/output"):
        get(orthanc, tmp_path, plan())


def test_a_fetch_that_is_interrupted_leaves_nothing_half_there(orthanc: StandIn, tmp_path: Path) -> None:
    """Whatever ends it, a cancel for instance, ends the other downloads too; nothing of it is left."""

    class StoppedError(BaseException):
        pass

    def stop(_: str) -> None:
        raise StoppedError

    orthanc.before_write = stop
    with pytest.raises(StoppedError):
        get(orthanc, tmp_path, plan(), connections=2)
    assert shown(tmp_path / "dicom" / STUDY) == {}
    beside = [f"{STUDY}.json", f"{STUDY}.lock", f"{STUDY}.use", "room.lock"]
    assert sorted(p.name for p in (tmp_path / "dicom" / ".copies").iterdir()) == beside


def test_leftovers_of_a_killed_fetch_are_cleared(orthanc: StandIn, tmp_path: Path) -> None:
    part = tmp_path / "dicom" / ".copies" / f"{STUDY}.part"
    part.mkdir(parents=True)
    (part / MR_1).write_text("half")
    assert shown(get(orthanc, tmp_path, plan()))[path(MR, MR_1)] == f"content of {MR_1}"
    assert not part.exists()


def test_several_connections_fetch_at_a_time(orthanc: StandIn, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=10)
    orthanc.before_write = lambda _: cast("None", together.wait())
    assert len(shown(get(orthanc, tmp_path, plan(), connections=3))) == 3


def waiting_for(inode: int) -> int:
    """How many wait for a flock on that file (proc_locks(5))."""
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("-> FLOCK" in line and f":{inode} " in line for line in lines)


def test_one_fetch_a_study_and_host(orthanc: StandIn, tmp_path: Path) -> None:
    """Who comes second waits, and then finds the files."""
    first_is_in = threading.Event()
    go_on = threading.Event()

    def hold(_: str) -> None:
        first_is_in.set()
        assert go_on.wait(10)

    orthanc.before_write = hold
    threads = [threading.Thread(target=get, args=(orthanc, tmp_path, plan())) for _ in range(3)]
    threads[0].start()
    assert first_is_in.wait(10)
    for thread in threads[1:]:
        thread.start()
    lock = (tmp_path / "dicom" / ".copies" / f"{STUDY}.lock").stat().st_ino
    wait_until(lambda: waiting_for(lock) == 2, 10, "the two others wait for the lock")
    assert orthanc.listed == 1
    go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(orthanc.downloaded) == sorted([MR_1, MR_2, CT_1])
    assert orthanc.listed == 1


@pytest.mark.parametrize(
    "order",
    [
        PlanOrder("p", "../../etc", {}, [], {MR: [MR_1]}),
        PlanOrder("p", STUDY, {}, [], {"..": [MR_1]}),
        PlanOrder("p", STUDY, {}, [], {MR: ["../x"]}),
        PlanOrder("p", STUDY, {}, [], {MR: [MR_1 + "\n"]}),
        PlanOrder("p", "", {}, [], {}),
        PlanOrder("p", STUDY.upper(), {}, [], {}),
    ],
)
def test_what_could_leave_data_is_refused(orthanc: StandIn, tmp_path: Path, order: PlanOrder) -> None:
    """Names become paths: only Orthanc's identifiers may."""
    with pytest.raises(PermanentError, match="cannot be one of Orthanc's"):
        get(orthanc, tmp_path, order)
    assert list(tmp_path.iterdir()) == []


def test_a_series_that_the_plan_does_not_have_is_refused(orthanc: StandIn, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="pins no instance of the series"):
        get(orthanc, tmp_path, plan(), "../../etc")

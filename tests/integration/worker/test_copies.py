"""Room for studies on a host: with a real Orthanc, processes that are killed, and a disk that is full."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from dcm_processor.errors import DataFullError
from dcm_processor.orthanc import Orthanc
from dcm_processor.transport import PlanOrder
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import STUDY, Stand, gone, horse_of
from tests.integration.worker.test_deaths import SLOW
from tests.integration.worker.test_studies import plan_of, store
from tests.servers import OrthancServer
from tests.small_disk import small_disk
from tests.waiting import wait_until
from worker.copies import Copies, Limits, lock, using
from worker.studies import fetch

FETCH = """
import json, sys, time
from pathlib import Path
from dcm_processor.errors import DataFullError
from dcm_processor.orthanc import Orthanc
from dcm_processor.transport import PlanOrder
from worker.copies import Limits, using
from worker.studies import fetch
url, password, data, plan, budget, go = sys.argv[1:]
order = PlanOrder(**json.loads(plan))
while not Path(go).exists():
    time.sleep(0.01)
try:
    with using(Path(data), order.studyId):
        fetch(Orthanc(url, "dcmproc", lambda: password), Path(data), order, limits=Limits(int(budget)))
        print("fetched", flush=True)
        sys.stdin.read()
except DataFullError as error:
    print(error, flush=True)
"""
EVICT = """
import sys
from pathlib import Path
from worker.copies import Copies, Limits
data, study = Path(sys.argv[1]), sys.argv[2]
(data / "dicom" / study).mkdir(exist_ok=True)
with Copies(data, Limits(100), lambda plans: frozenset()).room(study, "p", 100, changed=False):
    pass
"""
OTHER = "aaaaaaaa-bbbbbbbb-cccccccc-dddddddd-00000009"


@pytest.fixture
def client(orthanc: OrthancServer) -> Iterator[Orthanc]:
    with Orthanc(orthanc.url, "dcmproc", lambda: orthanc.password, timeout=10) as client:
        yield client


@pytest.fixture
def plans(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> list[PlanOrder]:
    """Of two studies of about five megabytes each."""
    sent = [store(orthanc, tmp_path / f"sent{n}", instances=20, pixels=256 * 1024) for n in range(2)]
    return [plan_of(client, study.study_id, f"{study.study_id}-1") for study in sent]


def none_unfinished(_: object) -> frozenset[str]:
    return frozenset()


def there(data: Path) -> set[str]:
    return {path.name for path in (data / "dicom").iterdir() if any(path.rglob("*.dcm"))}


def test_of_two_fetches_at_once_a_budget_for_one_lets_one_through(
    orthanc: OrthancServer, client: Orthanc, plans: list[PlanOrder], tmp_path: Path
) -> None:
    """The other is told why, and gets its turn, and the room, once the first plan has ended."""
    data, go, budget = tmp_path / "data", tmp_path / "go", 8_000_000
    common = [orthanc.url, orthanc.password, str(data)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, *common, json.dumps(asdict(plan)), str(budget), str(go)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for plan in plans
    ]
    go.touch()
    said = [next(line for line in process.stdout or () if " [" not in line) for process in processes]
    assert sorted(line == "fetched\n" for line in said) == [False, True]
    first = said.index("fetched\n")
    assert "of the 8000000 of DATA_BUDGET are taken by studies that jobs still need" in said[1 - first]
    limits = Limits(budget)
    with pytest.raises(DataFullError):  # its plan has ended; it is in use
        fetch(client, data, plans[1 - first], limits=limits, unfinished=none_unfinished)
    for process in processes:
        process.communicate("", timeout=20)
    fetch(client, data, plans[1 - first], limits=limits, unfinished=none_unfinished)
    assert there(data) == {plans[1 - first].studyId}


def test_a_process_that_is_killed_while_a_copy_goes_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """At several moments; the next fetch deletes the rest."""
    for number in range(5):
        data = tmp_path / f"data{number}"
        folder = data / "dicom" / STUDY
        for series in range(20):
            (folder / f"s{series}").mkdir(parents=True)
            for instance in range(100):
                (folder / f"s{series}" / f"{instance}.dcm").write_bytes(b"x" * 10)
        beside = data / "dicom" / ".copies"
        beside.mkdir()
        (beside / f"{STUDY}.json").write_text("{}")
        process = subprocess.Popen([sys.executable, "-c", EVICT, str(data), OTHER])
        wait_until(lambda there=folder, one=process: not there.exists() or one.poll() is not None, 30, "it goes")
        time.sleep(0.004 * number)  # five moments of the deletion
        process.kill()
        process.wait(10)
        assert not folder.exists()
        assert not (beside / f"{STUDY}.json").exists()
        (data / "dicom" / OTHER).mkdir(exist_ok=True)
        with Copies(data, Limits(), none_unfinished).room(OTHER, "p", 1, changed=False):
            pass
        assert list((beside / "gone").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_small_disk_has_room_for_one_study_after_the_other(
    client: Orthanc, plans: list[PlanOrder], tmp_path: Path
) -> None:
    """Without a budget: what must stay free decides. What a plan needs stays, and fetching stops instead."""
    data = tmp_path / "data"
    data.mkdir()
    with small_disk(data, "9m"):
        limits = Limits(min_free=2_000_000)
        fetch(client, data, plans[0], limits=limits)
        with pytest.raises(DataFullError, match=r"bytes are free, of which 2000000 are to stay so \(MIN_FREE\)"):
            fetch(client, data, plans[1], limits=limits)
        assert there(data) == {plans[0].studyId}
        for plan in (plans[1], plans[0], plans[1]):
            fetch(client, data, plan, limits=limits, unfinished=none_unfinished)
            assert there(data) == {plan.studyId}
        (data / "of somebody else").write_bytes(b"x" * 3_000_000)
        with pytest.raises(DataFullError), using(data, plans[0].studyId):
            fetch(client, data, plans[0], limits=limits, unfinished=none_unfinished)
        assert there(data) == {plans[1].studyId}
        fetch(client, data, plans[1], limits=limits)  # nothing is to come, so nothing needs room


def test_a_copy_is_in_use_as_long_as_anything_of_the_job_lives(stand: Stand) -> None:
    """From before the fetch until the horse has ended; where that is killed, until its reaper has ended the job."""
    use = stand.base / "data" / "dicom" / ".copies" / f"{STUDY}.use"
    stand.service(SLOW)
    worker = stand.start()
    stand.enqueue()
    pid = int(stand.written("pid"))
    assert lock(use, wait=False) is None
    os.kill(horse_of(worker), signal.SIGKILL)
    wait_until(lambda: lock(use, wait=False) is not None, 10, "nobody uses the copy")
    assert gone(pid)
    assert stand.outcome().exitReason is ExitReason.LOST

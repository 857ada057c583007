"""A study's files on a host, from a real Orthanc."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import requests
from pydicom import dcmread

from dcm_processor.errors import DataFullError, OrthancUnavailableError, StudyGoneError
from dcm_processor.orthanc import Orthanc
from dcm_processor.settings import Settings
from dcm_processor.transport import Order, PlanOrder
from tests.dicom import StudyFiles, make_study, upload
from tests.servers import OrthancServer, free_port
from tests.small_disk import small_disk
from tests.waiting import wait_until
from worker.studies import fetch, provide

FETCH = """
import json, sys
from pathlib import Path
from dcm_processor.orthanc import Orthanc
from dcm_processor.transport import PlanOrder
from worker.studies import fetch
url, password, data, plan = sys.argv[1:]
fetch(Orthanc(url, "dcmproc", lambda: password), Path(data), PlanOrder(**json.loads(plan)))
"""


@pytest.fixture
def client(orthanc: OrthancServer) -> Iterator[Orthanc]:
    with Orthanc(orthanc.url, "dcmproc", lambda: orthanc.password, timeout=10) as client:
        yield client


def store(orthanc: OrthancServer, directory: Path, instances: int = 20, pixels: int = 0) -> StudyFiles:
    study = make_study(directory, [{"Modality": "MR", "instances": instances}, {"Modality": "CT", "instances": 2}])
    for path in study.files:
        dataset = dcmread(path)
        dataset.PixelData = os.urandom(64) * (pixels // 64) or dataset.PixelData
        dataset.save_as(path)
    upload(orthanc.url, orthanc.auth, study.files)
    return study


def plan_of(client: Orthanc, study_id: str, plan_id: str = "plan-1") -> PlanOrder:
    instances = {series: list(ids) for series, ids in client.study(study_id).instances.items()}
    return PlanOrder(planId=plan_id, studyId=study_id, headers={}, selected=[], instances=instances)


def test_a_study_as_its_jobs_see_it(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """Byte for byte what was sent, one folder a series, read-only, by the settings of an installation."""
    sent = store(orthanc, tmp_path / "sent")
    plan = plan_of(client, sent.study_id)
    settings = Settings(BASEDIR=tmp_path, ORTHANC_REST_URL=orthanc.url, ORTHANC_REST_PASSWORD=orthanc.password)
    series_id = min(plan.instances, key=lambda series: len(plan.instances[series]))
    order = Order(
        attemptId="a-1", jobId="a", attempt=1, planId=plan.planId, studyId=plan.studyId, seriesId=series_id,
        jobName="job", service="svc", digest="0", worker="svc.f", timeout=1.0, memory=None, params={}, inputs={},
        outcomes={},
    )  # fmt: skip
    folder = provide(settings, order, plan)
    assert folder == tmp_path / "data" / "dicom" / sent.study_id / series_id
    assert len(list(folder.iterdir())) == 2

    folder = fetch(client, settings.data, plan)
    found = {path: path.read_bytes() for path in folder.rglob("*.dcm")}
    assert sorted(found.values()) == sorted(path.read_bytes() for path in sent.files)
    assert {path.parent.name: len(list(path.parent.iterdir())) for path in found} == {
        series: len(instances) for series, instances in plan.instances.items()
    }
    assert {path.stat().st_mode & 0o777 for path in found} == {0o444}


def test_a_fetch_that_is_killed_leaves_only_whole_files(
    orthanc: OrthancServer, client: Orthanc, tmp_path: Path
) -> None:
    """kill -9 in the middle, at several moments; who comes next goes on."""
    sent = store(orthanc, tmp_path / "sent", instances=60, pixels=256 * 1024)
    plan = plan_of(client, sent.study_id)
    contents = {path.read_bytes() for path in sent.files}
    data = tmp_path / "data"
    folder = data / "dicom" / sent.study_id
    for files in (1, 15, 40):
        process = subprocess.Popen(command(orthanc, data, plan))
        wait_until(lambda n=files: sum(1 for _ in folder.rglob("*.dcm")) >= n, 20, f"{files} files")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert {path.read_bytes() for path in folder.rglob("*") if path.is_file()} <= contents
    fetch(client, data, plan)
    assert {path.read_bytes() for path in folder.rglob("*.dcm")} == contents
    assert not (data / "dicom" / ".copies" / f"{sent.study_id}.part").exists()


def test_processes_of_a_host_fetch_a_study_once(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """Four workers start four jobs of a study at once: every file goes over the wire one time."""
    sent = store(orthanc, tmp_path / "sent", instances=40)
    plan = plan_of(client, sent.study_id)
    log = orthanc.directory / "server.log"
    begun = log.stat().st_size
    set_log_level(orthanc, "verbose")
    processes = [subprocess.Popen(command(orthanc, tmp_path / "data", plan)) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    set_log_level(orthanc, "default")
    assert sum(1 for _ in (tmp_path / "data" / "dicom" / sent.study_id).rglob("*.dcm")) == 42
    fetched = re.findall(r"GET /instances/([0-9a-f-]+)/file", log.read_bytes()[begun:].decode())
    assert (len(fetched), len(set(fetched))) == (42, 42)


def test_a_study_deleted_meanwhile_is_gone(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    sent = store(orthanc, tmp_path / "sent")
    plan = plan_of(client, sent.study_id)
    requests.delete(f"{orthanc.url}/studies/{sent.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
    with pytest.raises(StudyGoneError):
        fetch(client, tmp_path / "data", plan)


def test_an_instance_deleted_meanwhile_is_gone(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    sent = store(orthanc, tmp_path / "sent")
    plan = plan_of(client, sent.study_id)
    instance = next(iter(plan.instances.values()))[0]
    requests.delete(f"{orthanc.url}/instances/{instance}", auth=orthanc.auth, timeout=10).raise_for_status()
    with pytest.raises(StudyGoneError, match="1 of the 22 instances"):
        fetch(client, tmp_path / "data", plan)


def test_orthanc_away_is_a_matter_of_time(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """Transient while the copy is not whole; of no matter once it is."""
    sent = store(orthanc, tmp_path / "sent")
    plan = plan_of(client, sent.study_id)
    away = Orthanc(f"http://127.0.0.1:{free_port()}", "dcmproc", lambda: "x")
    with pytest.raises(OrthancUnavailableError):
        fetch(away, tmp_path / "data", plan)
    fetch(client, tmp_path / "data", plan)
    assert len(list(fetch(away, tmp_path / "data", plan).rglob("*.dcm"))) == 22


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_under_data(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """Said with the bytes that are needed and free; what other programs still need is not filled up."""
    data = tmp_path / "data"
    data.mkdir()
    sent = store(orthanc, tmp_path / "sent", instances=20, pixels=256 * 1024)
    plan = plan_of(client, sent.study_id)
    with small_disk(data, "2m"):
        with pytest.raises(DataFullError, match=r"bytes are needed, \d+ bytes are free"):
            fetch(client, data, plan)
        assert list(data.rglob("*.dcm")) == []


def set_log_level(orthanc: OrthancServer, level: str) -> None:
    requests.put(f"{orthanc.url}/tools/log-level", data=level, auth=orthanc.auth, timeout=10).raise_for_status()


def command(orthanc: OrthancServer, data: Path, plan: PlanOrder) -> list[str]:
    return [sys.executable, "-c", FETCH, orthanc.url, orthanc.password, str(data), json.dumps(asdict(plan))]

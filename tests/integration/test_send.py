"""`dcm-processor send` to a real Orthanc: what arrives, what is said, and the exit status."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pydicom.uid import UID

from tests.dicom import make_study
from tests.servers import OrthancServer, free_port


def send(orthanc: OrthancServer, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, with Orthanc's port in the environment."""
    return subprocess.run(
        [sys.executable, "-m", "dcm_processor.cli", "send", *map(str, arguments)],
        env={**os.environ, "DICOM_PORT": str(orthanc.dicom_port), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def stored(orthanc: OrthancServer) -> set[str]:
    """SOPInstanceUIDs of what Orthanc holds."""
    found = requests.get(f"{orthanc.url}/instances?expand", auth=orthanc.auth, timeout=10).json()
    return {instance["MainDicomTags"]["SOPInstanceUID"] for instance in found}


def uids(files: tuple[Path, ...]) -> set[str]:
    return {str(dcmread(path).SOPInstanceUID) for path in files}


def test_a_folder_arrives_and_its_readme_does_not_matter(tmp_path: Path, orthanc: OrthancServer) -> None:
    study = make_study(tmp_path / "study", [{"Modality": "MR", "instances": 3}, {"Modality": "CT", "instances": 2}])
    (tmp_path / "study" / "README.txt").write_text("hello")
    done = send(orthanc, tmp_path / "study")
    assert done.returncode == 0
    assert done.stdout == f"5 sent to DCMPROC at 127.0.0.1:{orthanc.dicom_port}, 0 rejected, 1 left out\n"
    assert done.stderr == f"left out: {tmp_path}/study/README.txt: not DICOM\n"
    assert stored(orthanc) == uids(study.files)


def test_a_zip_archive_and_single_files_arrive(tmp_path: Path, orthanc: OrthancServer) -> None:
    zipped, single = make_study(tmp_path / "a"), make_study(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in zipped.files:
            archive.write(path, f"deep/er/{path.name}")
    done = send(orthanc, tmp_path / "study.zip", *single.files[:2])
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(orthanc) == uids(zipped.files) | uids(single.files[:2])


def test_rejected_files_are_listed_with_why_and_the_rest_is_sent(tmp_path: Path, orthanc: OrthancServer) -> None:
    """Orthanc takes no SOP class that it does not know; a file called .dcm that is none was meant to be sent."""
    study = make_study(tmp_path / "study")
    unknown = dcmread(study.files[0])
    unknown.SOPClassUID = unknown.file_meta.MediaStorageSOPClassUID = UID("1.2.3.4.5")
    unknown.save_as(tmp_path / "study" / "unknown.dcm")
    (tmp_path / "study" / "broken.dcm").write_bytes(bytes(200))
    done = send(orthanc, tmp_path / "study")
    assert done.returncode == 1
    assert "3 sent to " in done.stdout
    assert "2 rejected" in done.stdout
    assert f"rejected: {tmp_path}/study/broken.dcm: not DICOM\n" in done.stderr
    assert f"rejected: {tmp_path}/study/unknown.dcm: the peer does not take 1.2.3.4.5 as Explicit VR" in done.stderr
    assert stored(orthanc) == uids(study.files)


def test_what_happens_is_told_to_programs_as_one_document(tmp_path: Path, orthanc: OrthancServer) -> None:
    study = make_study(tmp_path / "study")
    (tmp_path / "notes.txt").write_text("hello")
    done = send(orthanc, tmp_path / "study", tmp_path / "notes.txt", "--json")
    assert json.loads(done.stdout) == {
        "peer": {"host": "127.0.0.1", "port": orthanc.dicom_port, "called": "DCMPROC", "calling": "DCMSEND"},
        "sent": len(study.files),
        "associations": 1,
        "rejected": [{"file": str(tmp_path / "notes.txt"), "reason": "not DICOM"}],
        "leftOut": [],
    }
    assert done.returncode == 1


def test_a_thousand_wrong_files_make_a_short_list(tmp_path: Path, orthanc: OrthancServer) -> None:
    make_study(tmp_path / "study")
    for number in range(1000):
        (tmp_path / "study" / f"{number}.txt").touch()
    lines = send(orthanc, tmp_path / "study").stderr.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "left out: 995 more: empty"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (
            ["{tmp}/study", "--port", str(free_port())],
            1,
            "does not answer; is it running, and are host and port right?",
        ),
        (["{tmp}/nowhere"], 2, "/nowhere does not exist; name files, folders or zip archives"),
        (["{tmp}/study", "--called", "x" * 17], 2, "an AE title has 1 to 16 ASCII characters"),
        (["{tmp}/empty"], 1, "nothing was sent: there is no DICOM file in what you named"),
        ([], 2, "missing argument"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    tmp_path: Path, orthanc: OrthancServer, arguments: list[str], status: int, said: str
) -> None:
    make_study(tmp_path / "study")
    (tmp_path / "empty").mkdir()
    done = send(orthanc, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_nothing_of_a_patient_is_said(tmp_path: Path, orthanc: OrthancServer) -> None:
    """Not even of files that are rejected or not readable: only paths, which are the user's own words."""
    study = make_study(tmp_path / "study", PatientName="MARKER^NAME", PatientID="MARKER-ID")
    content = study.files[0].read_bytes()
    study.files[0].write_bytes(content.replace(b"1.2.840.10008.5.1.4.1.1.4\0", b"MARKER^CLASS^1234567890\0\0\0"))
    done: Any = send(orthanc, tmp_path / "study")
    assert done.returncode == 1
    assert "MARKER" not in done.stdout + done.stderr

"""`dcm-processor run` on a folder and the whole platform on the same files: the same plan, headers, arguments, results.

On the one side Orthanc's REST, the ledger, Redis, RQ and a worker; on the other nothing but the command.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.settings import CHECKOUT
from tests.dicom import StudyFiles, make_study, upload
from tests.e2e.test_study import Stack

JOBS: list[dict[str, Any]] = [
    {"jobName": "first", "stage": "pre", "params": {"a": [1, 2]}},
    {"jobName": "each", "level": "series", "dependsOn": "first"},
    {"jobName": "after", "dependsOn": ["each", "only-ct"], "onDependencyFailure": "run", "sortPosition": 2},
    {"jobName": "only-ct", "sortPosition": 1},
    {"jobName": "fails", "sortPosition": 3},
    {"jobName": "skipped", "dependsOn": "fails"},
    {"jobName": "last", "stage": "post", "dependsOn": "*"},
]
CALLBACK = """
    import json
    def applies(jobName, headers, params, added_params):
        if jobName == "only-ct":
            return headers.get("Modality") == "CT", {"asked": True}
        return True, {"headers": json.loads(json.dumps(headers)), "before": sorted(added_params)}
"""
WORK = """
    import hashlib, json
    from pathlib import Path

    def listed(folder):
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def seen_inputs(inputs):
        return {name: seen_inputs(at) if isinstance(at, dict) else listed(at) for name, at in inputs.items()}

    def work(jobName, headers, params, added_params, dicom_dir, output_dir, inputs, outcomes, studyId, planId, attempt):
        if jobName == "fails":
            raise ValueError("as it is to")
        seen = {
            "headers": headers, "params": params,
            "added_params": dict(added_params), "service": added_params.get("probe"),
            "dicom": listed(dicom_dir), "inputs": seen_inputs(inputs), "outcomes": outcomes,
            "studyId": studyId, "planId": planId, "attempt": attempt,
        }
        Path(output_dir, "seen.json").write_text(json.dumps(seen, sort_keys=True, indent=1))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("rehearsal") / "base")
    running.settings |= {"STABLE_AGE": "2", "HEADER_FIELDS": "*"}
    running.up("--scale", "worker=1")
    yield running
    running.down()


def test_a_rehearsal_comes_to_what_the_platform_comes_to(stack: Stack, tmp_path: Path) -> None:
    studies = _studies(tmp_path / "dicom")
    stack.install(tmp_path / "services", "probe", JOBS, callback=CALLBACK, work=WORK)
    url, auth = f"http://127.0.0.1:{stack.settings['ORTHANC_PORT']}", ("admin", stack.secret("orthanc_admin_password"))
    upload(url, auth, [path for study in studies for path in study.files])
    ended = {study.study_id: stack.ended(study.study_id, 180) for study in studies}

    done = subprocess.run(
        [CHECKOUT / ".venv/bin/dcm-processor", "run", "dicom", "-s", "services/probe", "-o", "out", "--json"],
        env={**os.environ, "HEADER_FIELDS": "*", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # `fails` does
    rehearsed = {study["studyId"]: study["jobs"] for study in json.loads(done.stdout)["studies"]}

    assert rehearsed.keys() == ended.keys()
    for study_id, jobs in rehearsed.items():
        [plan] = (stack.study(study_id) or {})["plans"]
        assert [_told(job) for job in jobs] == [_told(job) for job in plan["jobs"]]
        results, ours = stack.results(study_id), tmp_path / "out" / study_id
        files = sorted(str(path.relative_to(ours)) for path in ours.rglob("seen.json"))
        assert files == sorted(str(path.relative_to(results)) for path in results.rglob("seen.json"))
        assert len(files) >= 4
        for name in files:
            assert json.loads((ours / name).read_text()) == json.loads((results / name).read_text()), name


def _told(job: dict[str, Any]) -> tuple[Any, ...]:
    """What both say of a job; the platform's `state` is null where the job was not scheduled."""
    state = job["state"] or job["verdict"]
    reason = job["reason"] if state != "finished" else None
    return job["jobName"], job["seriesId"], job["verdict"], state, reason


def _studies(folder: Path) -> list[StudyFiles]:
    return [
        make_study(folder / "ct", [{"Modality": "CT", "instances": 3}, {"Modality": "CT", "SeriesNumber": None}]),
        make_study(
            folder / "mr",
            [{"instances": 2, "EchoTime": "2.5", "ImageType": ["ORIGINAL", "", "M"]}, {"SeriesDescription": ""}],
            SpecificCharacterSet="ISO_IR 100",
            PatientName="Müller^Jörg",
            PatientID="L-1",
        ),
        make_study(
            folder / "kanji",
            [{"instances": 1, "SeriesDescription": "頭部 単純"}],
            SpecificCharacterSet=["", "ISO 2022 IR 87"],
            PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
            PatientID="K-1",
        ),
    ]

"""run.sh --local --demo, word for word: what a stranger does first."""

import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.local.processes import marked
from dcm_processor.settings import CHECKOUT
from tests.e2e.test_local_mode import Installation

JOBS = [
    ["CT Demo: chest", "temp", "finished"],
    ["dcm2nii", "Chest native", "finished"],
    ["dcm2nii", "Chest arterial", "finished"],
    ["MR Demo: head", "temp", "finished"],
    ["dcm2nii", "Head T1", "finished"],
    ["dcm2nii", "Head T2", "finished"],
]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    found = Installation(tmp_path_factory.mktemp("demo") / "basedir")
    try:
        yield found
    finally:
        found.down()
        assert marked(found.basedir) == []


def table(stdout: str) -> list[list[str]]:
    """The rows of the final table, without times."""
    lines = stdout.partition("what ran, in ")[2].partition("\n\n")[0].splitlines()[2:]
    return [re.split(r"\s{2,}", line.strip())[:3] for line in lines]


def check_image(image: Path) -> None:
    """It is an image of all slices, and beside it is what dcm2niix tells of the series.

    NIfTI-1: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h (sizeof_hdr, dim).
    """
    header = gzip.decompress(image.read_bytes())[:348]
    assert struct.unpack_from("<i", header) == (348,)
    dimensions, columns, rows, slices = struct.unpack_from("<4h", header, 40)
    assert dimensions == 3
    assert columns == rows >= 128
    assert slices == 24
    told = json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())
    assert (told["Modality"], told["SeriesDescription"]) in {
        ("CT", "Chest native"),
        ("CT", "Chest arterial"),
        ("MR", "Head T1"),
        ("MR", "Head T2"),
    }


def service(folder: Path, name: str, body: str) -> Path:
    """A service that takes every study."""
    entry = {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.callback", "timeout": "1m"}
    for part, files in {
        "registry": {"settings.json": json.dumps(entry), "when.py": "def callback():\n    return True\n"},
        "module": {"what.py": f"def worker():\n    {body}\n", "requirements.txt": ""},
    }.items():
        (folder / part).mkdir(parents=True)
        for file, text in files.items():
            (folder / part / file).write_text(text)
    return folder


def test_the_first_run_ends_with_every_job_finished(installation: Installation) -> None:
    """From nothing running to NIfTI files, with the table, outputs, a log and pages shown, and status 0."""
    done = installation.bash("run.sh", "--local", "--demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert table(done.stdout) == JOBS
    images = sorted(path.name for path in (installation.basedir / "data" / "results").rglob("*.nii.gz"))
    assert images == ["1_Chest-native.nii.gz", "1_Head-T1.nii.gz", "2_Chest-arterial.nii.gz", "2_Head-T2.nii.gz"]
    for image in images:
        assert image in done.stdout
        check_image(next((installation.basedir / "data" / "results").rglob(image)))
    assert "the end of the log of dcm2nii" in done.stdout
    assert f"http://127.0.0.1:{installation.settings['DASHBOARD_PORT']}/rq" in done.stdout
    assert str(installation.basedir / "secrets" / "dashboard_password") in done.stdout
    assert installation.stack_json()["stableAge"] == 2, "the demo started it"


def test_a_second_run_on_the_same_stack_runs_the_same_studies_again(installation: Installation) -> None:
    """What is in Orthanc already is not new to it; its jobs run again all the same, and no study is added."""
    done = installation.bash("run.sh", "--local", "--demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert table(done.stdout) == JOBS
    studies = json.loads(installation.bash_cli("study", "list", "--json").stdout)
    assert len(studies) == 2
    for study in studies:
        plans = json.loads(installation.bash_cli("study", "show", study["studyId"], "--json").stdout)["plans"]
        newest = plans[0]["revision"]  # the only one, unless the machine was slow and the first sending paused
        assert [plan["run"] for plan in plans if plan["revision"] == newest] == [2, 1]


def test_the_service_in_five_minutes_of_the_readme_does_what_it_says(
    installation: Installation, tmp_path: Path
) -> None:
    section = (
        (CHECKOUT / "README.md").read_text().partition("\n## A service in five minutes\n")[2].partition("\n## ")[0]
    )
    shell = installation.shell(tmp_path / "home")
    try:
        assert shell.follow(section, "README.md, A service in five minutes", 100) == 5
    finally:
        shell.close()
        installation.bash_cli("service", "remove", "lungs")


def test_nothing_of_the_patients_that_are_none_is_in_the_logs(installation: Installation) -> None:
    """The habit counts: not even a phantom's name."""
    for log in (installation.basedir / "logs").rglob("*.log"):
        assert b"Phantom^" not in log.read_bytes(), log


def test_it_refuses_where_other_services_are(installation: Installation, tmp_path: Path) -> None:
    source = service(tmp_path / "mine", "mine", "print('mine')")
    assert installation.bash_cli("service", "install", "mine", "-p", str(source)).returncode == 0
    refused = installation.bash_cli("demo")
    assert refused.returncode == 2
    assert refused.stderr.startswith("dcm-processor: other services are installed (mine) ")
    assert refused.stdout == ""
    forced = json.loads(installation.bash_cli("demo", "--force", "--json").stdout)
    assert forced["succeeded"]
    assert [job["job"] for job in forced["jobs"]].count("mine") == 2


def test_a_job_that_fails_makes_it_fail_and_shows_why(installation: Installation, tmp_path: Path) -> None:
    source = service(tmp_path / "mine", "mine", "raise ValueError('no such luck')")
    assert installation.bash_cli("service", "install", "mine", "-p", str(source)).returncode == 0
    done = installation.bash_cli("demo", "--force")
    assert done.returncode == 1
    assert ["mine", "failed"] in [row[:2] for row in table(done.stdout)]
    assert "the function raised: ValueError: no such luck" in done.stdout
    assert "the end of the log of mine" in done.stdout
    assert "ValueError: no such luck" in done.stdout.partition("the end of the log of mine")[2]

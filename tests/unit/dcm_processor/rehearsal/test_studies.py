"""The studies in a folder, by Orthanc's names; tests/integration compares them with a real Orthanc."""

from pathlib import Path

import pytest

from dcm_processor import service_tree
from dcm_processor.errors import PermanentError
from dcm_processor.rehearsal.studies import lay_out, studies_in
from tests.dicom import make_study


def test_a_study_is_named_as_orthanc_names_it_and_its_instances_are_in_order(tmp_path: Path) -> None:
    made = make_study(tmp_path, [{"instances": 12}])
    [study] = studies_in(reversed(made.files)).found
    assert study.study_id == made.study_id
    [series] = study.series
    assert [file.path for file in series.instances.values()] == list(made.files)
    assert study.plan_id.startswith(f"{made.study_id}-")


def test_of_two_files_of_an_instance_the_first_counts(tmp_path: Path) -> None:
    made = make_study(tmp_path / "a", [{"instances": 1}])
    copy = tmp_path / "a" / "b.dcm"
    copy.write_bytes(made.files[0].read_bytes())
    [study] = studies_in([tmp_path]).found
    assert [file.path for file in study.series[0].instances.values()] == [made.files[0]]
    assert study.number_of_instances == 1


def test_what_is_no_dicom_is_left_out_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    made = make_study(tmp_path / "a", [{"instances": 1}])
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "broken.dcm").write_bytes(made.files[0].read_bytes()[:150])
    found = studies_in([tmp_path])
    assert len(found.found) == 1
    assert [Path(refusal.name).name for refusal in found.rejected] == ["broken.dcm"]
    with pytest.raises(PermanentError, match=r"no DICOM instance.*broken\.dcm"):
        studies_in([tmp_path / "broken.dcm"])


def test_files_are_laid_out_as_a_worker_has_them_and_nobody_may_write_them(tmp_path: Path) -> None:
    made = make_study(tmp_path / "a", [{"instances": 1}, {"instances": 1}])
    [study] = studies_in([tmp_path / "a"]).found
    top = lay_out(study, tmp_path / "data")
    assert top == tmp_path / "data" / "dicom" / made.study_id
    laid = {str(path.relative_to(top)): path for path in top.rglob("*.dcm")}
    assert set(laid) == {f"{series.series_id}/{name}.dcm" for series in study.series for name in series.instances}
    assert {path.read_bytes() for path in laid.values()} == {path.read_bytes() for path in made.files}
    assert {path.stat().st_mode & 0o222 for path in [top, *top.rglob("*")]} == {0}
    service_tree.remove(tmp_path / "data")


def test_a_dataset_that_cannot_be_written_as_a_file_costs_the_others_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path, [{"instances": 2}])
    whole = study.files[0].read_bytes()
    bare = whole[144 + int.from_bytes(whole[140:144], "little") :]
    modality = bare.index(b"\x08\x00\x60\x00CS")
    command = b"\0\0\0\0UL\4\0" + bytes(4)  # of a group that no file has (PS3.10 7.1)
    study.files[0].write_bytes(bare[:modality] + command + bare[modality:])
    studies = studies_in([tmp_path])
    assert [each.number_of_instances for each in studies.found] == [1]
    [refusal] = studies.rejected
    assert refusal.reason.startswith("damaged: cannot be written as DICOM (")

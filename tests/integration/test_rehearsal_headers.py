"""A folder gives the same studies, identifiers, order and headers as Orthanc does once it has the same files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom.datadict import tag_for_keyword

from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS
from dcm_processor.orthanc import Orthanc
from dcm_processor.registry import ServiceRegistry
from dcm_processor.rehearsal.studies import Study, studies_in
from dcm_processor.settings import Settings
from scheduler.planning import Ending, PlanningTask, plan_study
from tests.odd_dicom import write_odd_dicom
from tests.servers import OrthancServer


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    with OrthancServer(tmp_path_factory.mktemp("orthanc"), {"OverwriteInstances": False}) as server:
        yield server


@pytest.fixture(scope="module")
def stored(orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files that Orthanc took; the others are no matter here."""
    taken = []
    for path in write_odd_dicom(tmp_path_factory.mktemp("dicom") / "files"):
        answer = requests.post(f"{orthanc.url}/instances", data=path.read_bytes(), auth=orthanc.auth, timeout=30)
        if answer.ok:
            taken.append(path)
    return taken


@pytest.fixture(scope="module")
def studies(stored: list[Path]) -> dict[str, Study]:
    found = studies_in(stored)
    assert found.rejected == ()
    return {study.study_id: study for study in found.found}


def _without_file_meta(headers: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in headers.items() if (tag_for_keyword(name) or 0) >> 16 != 2}
    return kept | {"series": [_without_file_meta(each) for each in headers["series"]]} if "series" in headers else kept


def of(orthanc: OrthancServer, fields: tuple[str, ...]) -> Settings:
    return Settings(
        ORTHANC_REST_URL=orthanc.url, ORTHANC_REST_PASSWORD=orthanc.password, HEADER_FIELDS=fields, MODE="containers"
    )


def test_the_same_studies_with_the_same_series_and_instances_in_the_same_order(
    orthanc: OrthancServer, studies: dict[str, Study]
) -> None:
    assert len(studies) > 30
    with Orthanc.of(of(orthanc, ())) as there:
        assert sorted(there.studies_page(0, 1000)) == sorted(studies)
        for study_id, study in studies.items():
            contents = there.study(study_id)
            assert study.patient_id == contents.patient_id
            assert {each.series_id: tuple(each.instances) for each in study.series} == contents.instances


@pytest.mark.parametrize("fields", [("*",), DEFAULT_HEADER_FIELDS], ids=["all", "default"])
def test_the_same_headers(orthanc: OrthancServer, studies: dict[str, Study], fields: tuple[str, ...]) -> None:
    settings = of(orthanc, fields)
    for study_id, study in studies.items():
        task = PlanningTask(study_id=study_id, registry=ServiceRegistry(()), folders={}, settings=settings)
        planned = plan_study(task)
        assert planned.ending is Ending.PLANNED, planned.reason
        mine, theirs = study.headers(fields), planned.headers
        if not all(file.is_file_format for series in study.series for file in series.instances.values()):
            mine, theirs = _without_file_meta(mine), _without_file_meta(theirs)  # theirs is of another instance
        assert mine == theirs
        assert study.plan_id == f"{study_id}-{planned.revision}-1"

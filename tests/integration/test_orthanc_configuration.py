"""orthanc/orthanc.json in a real Orthanc: who may do what, and what is kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_role
from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tests.dicom import make_study, upload
from tests.servers import OrthancServer

BASE = Path(__file__).resolve().parents[2] / "orthanc" / "orthanc.json"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    with OrthancServer(tmp_path_factory.mktemp("configured"), json.loads(BASE.read_text())) as server:
        yield server


def test_the_base_configuration_holds_no_secret_and_leaves_the_rest_to_the_second_file() -> None:
    """Orthanc refuses a key that stands in two files of its configuration folder."""
    base = json.loads(BASE.read_text())
    for added in ("RegisteredUsers", "HttpPort", "DicomPort", "DicomAet", "StableAge", "StorageDirectory"):
        assert added not in base
    assert not {"IndexDirectory", "RemoteAccessAllowed", "LuaScripts"} & set(base)


def test_an_unknown_node_may_echo_and_store(orthanc: OrthancServer, tmp_path: Path) -> None:
    """Whatever it calls itself and us, and also what Orthanc does not know as an image."""
    strange = "1.2.826.0.1.3680043.8.498.1.2.3"  # a SOP class of nobody's
    stranger = AE(ae_title="STRANGER")
    for context in (Verification, CTImageStorage, strange):
        stranger.add_requested_context(context)
    association = stranger.associate("127.0.0.1", orthanc.dicom_port, ae_title="SOMEBODY")
    assert association.is_established
    assert association.send_c_echo().Status == 0
    assert {str(context.abstract_syntax) for context in association.accepted_contexts} >= {CTImageStorage, strange}
    association.release()


@pytest.mark.parametrize(
    "model",
    [
        PatientRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelFind,
        ModalityWorklistInformationFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    ],
)
def test_an_unknown_node_may_not_query_or_fetch(orthanc: OrthancServer, tmp_path: Path, model: str) -> None:
    """No answer tells what Orthanc holds, and nothing is sent."""
    study = make_study(tmp_path, [{"Modality": "CT", "instances": 1}])
    upload(orthanc.url, orthanc.auth, study.files)
    stranger = AE(ae_title="STRANGER")
    stranger.add_requested_context(model)
    stranger.add_requested_context(CTImageStorage)
    role = build_role(CTImageStorage, scp_role=True)
    association = stranger.associate("127.0.0.1", orthanc.dicom_port, ext_neg=[role])
    assert association.is_established
    try:
        if not any(context.abstract_syntax == model for context in association.accepted_contexts):
            return  # refused before it could ask
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study.study_instance_uid
        if model == StudyRootQueryRetrieveInformationModelGet:
            answers = association.send_c_get(query, model)
        elif model == StudyRootQueryRetrieveInformationModelMove:
            answers = association.send_c_move(query, "STRANGER", model)
        else:
            answers = association.send_c_find(query, model)
        for status, found in answers:
            assert found is None
            assert status.get("Status", 0xC000) not in (0x0000, 0xFF00, 0xFF01)
    finally:
        association.abort()


def test_nobody_comes_in_without_a_password(orthanc: OrthancServer) -> None:
    for auth in (None, ("admin", "wrong")):
        for path in ("/system", "/studies", "/app/explorer.html", "/tools/execute-script"):
            assert requests.get(orthanc.url + path, auth=auth, timeout=10).status_code == 401


def test_what_could_run_code_or_write_files_is_off(orthanc: OrthancServer) -> None:
    answer = requests.post(f"{orthanc.url}/tools/execute-script", data="print(1)", auth=orthanc.auth, timeout=10)
    assert answer.status_code == 403
    assert requests.get(f"{orthanc.url}/webdav/", auth=orthanc.auth, timeout=10).status_code == 404


def test_an_instance_sent_again_keeps_its_first_content(orthanc: OrthancServer, tmp_path: Path) -> None:
    """A plan pins instances by their identifiers: what these name must not change under it."""
    uids = {"StudyInstanceUID": "1.2.3.1", "PatientID": "AGAIN"}
    series = {"Modality": "MR", "SeriesInstanceUID": "1.2.3.2", "SOPInstanceUID": "1.2.3.3", "instances": 1}
    for description in ("first", "second"):
        study = make_study(tmp_path / description, [series], StudyDescription=description, **uids)
        upload(orthanc.url, orthanc.auth, study.files)
    found = requests.get(f"{orthanc.url}/studies/{study.study_id}", auth=orthanc.auth, timeout=10).json()
    assert found["MainDicomTags"]["StudyDescription"] == "first"

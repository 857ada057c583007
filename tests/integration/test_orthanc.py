"""The REST client against a real Orthanc."""

import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from dcm_processor.errors import OrthancUnavailableError, StudyGoneError
from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS
from dcm_processor.headers import SeriesSource, build_headers
from dcm_processor.orthanc import Orthanc
from tests.dicom import StudyFiles, make_study, upload
from tests.servers import OrthancServer, free_port
from tests.waiting import wait_until

NOBODY = "00000000-00000000-00000000-00000000-00000000"


@pytest.fixture
def client(orthanc: OrthancServer) -> Iterator[Orthanc]:
    with Orthanc(orthanc.url, "dcmproc", lambda: orthanc.password, timeout=10) as client:
        yield client


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls that left this process, by the kind of resource and what was asked of it."""
    counted: Counter[str] = Counter()
    send = requests.Session.send

    def counting(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        parts = request.path_url.split("?")[0].strip("/").split("/")
        counted["/".join(part for part in parts if part.count("-") != 4)] += 1
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", counting)
    return counted


def store(orthanc: OrthancServer, directory: Path, *series: dict[str, Any], **keywords: Any) -> StudyFiles:
    study = make_study(directory, series or ({"Modality": "MR", "instances": 3},), **keywords)
    upload(orthanc.url, orthanc.auth, study.files)
    return study


def is_stable(orthanc: OrthancServer, study_id: str) -> bool:
    study = requests.get(f"{orthanc.url}/studies/{study_id}", auth=orthanc.auth, timeout=10).json()
    return bool(study["IsStable"])


def test_headers_of_a_thousand_instances_cost_two_calls_and_two_a_series(
    orthanc: OrthancServer, client: Orthanc, calls: Counter[str], tmp_path: Path
) -> None:
    """Never one an instance."""
    sent = store(orthanc, tmp_path, *({"Modality": "MR", "instances": 100} for _ in range(10)))
    calls.clear()
    study = client.study(sent.study_id)
    owners = {client.stored_by(instances[0]) for instances in study.instances.values()}
    sources = [SeriesSource(s, len(ids), client.dataset(ids[0])) for s, ids in study.instances.items()]
    headers = build_headers(study.patient_id, study.study_id, sources, DEFAULT_HEADER_FIELDS)
    assert calls == {"studies": 1, "studies/instances": 1, "instances/metadata": 10, "instances/file": 10}
    assert owners == {"admin"}
    assert [entry["NumberOfInstances"] for entry in headers["series"]] == [100] * 10
    assert [entry["SeriesNumber"] for entry in headers["series"]] == list(range(1, 11))
    assert headers["StudyInstanceUID"] == study.study_instance_uid == sent.study_instance_uid
    assert headers["PatientID"] == "TEST-1"


def test_a_study_has_its_instances_in_order(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """(InstanceNumber, SOPInstanceUID), numbers as numbers, however they were sent."""
    sent = make_study(tmp_path, [{"Modality": "CT", "instances": 12}, {"Modality": "CT", "instances": 2}])
    upload(orthanc.url, orthanc.auth, reversed(sent.files))
    study = client.study(sent.study_id)
    longest = max(study.instances.values(), key=len)
    assert [client.dataset(instance).InstanceNumber for instance in longest] == list(range(1, 13))
    assert sorted(map(len, study.instances.values())) == [2, 12]
    assert study.study_id == sent.study_id
    assert study.patient_id == requests.get(f"{orthanc.url}/patients", auth=orthanc.auth, timeout=10).json()[0]


def test_a_dataset_is_what_the_file_says_without_its_pixels(
    orthanc: OrthancServer, client: Orthanc, tmp_path: Path
) -> None:
    """The same bytes as a folder of files would give, whatever the character set."""
    series = {"Modality": "MR", "instances": 1, "SpecificCharacterSet": ["", "ISO 2022 IR 87"]}
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    sent = store(orthanc, tmp_path, series, PatientName=name, PatientID="JP")
    [[instance]] = client.study(sent.study_id).instances.values()
    dataset = client.dataset(instance)
    assert "PixelData" not in dataset
    study = build_headers("p", "s", [SeriesSource("x", 1, dataset)], ["PatientName"])
    assert study["PatientName"] == name


def test_pixels_are_not_waited_for(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """A dataset costs no more memory than its header, and the connection still serves the next call."""
    study = make_study(tmp_path, [{"Modality": "MR", "instances": 1}])
    content = study.files[0].read_bytes()
    big = content[: content.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OW\0\0" + (64 << 20).to_bytes(4, "little")
    (tmp_path / "big.dcm").write_bytes(big + bytes(64 << 20))
    upload(orthanc.url, orthanc.auth, [tmp_path / "big.dcm"])
    [[instance]] = client.study(study.study_id).instances.values()
    for _ in range(3):
        assert client.dataset(instance).Modality == "MR"
    assert client.system()["Version"]


def test_a_file_is_downloaded_byte_for_byte(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    sent = store(orthanc, tmp_path, {"Modality": "MR", "instances": 1})
    [[instance]] = client.study(sent.study_id).instances.values()
    target = io.BytesIO()
    assert client.download(instance, target) == len(target.getvalue())
    assert target.getvalue() == sent.files[0].read_bytes()
    [(listed, stored)] = client.files(sent.study_id).items()
    assert (listed, stored.size) == (instance, len(target.getvalue()))
    assert stored.uuid


def test_what_is_stored_anew_has_another_uuid(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    sent = store(orthanc, tmp_path)
    before = client.files(sent.study_id)
    requests.delete(f"{orthanc.url}/studies/{sent.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
    upload(orthanc.url, orthanc.auth, sent.files)
    after = client.files(sent.study_id)
    assert before.keys() == after.keys()
    assert {file.uuid for file in before.values()}.isdisjoint(file.uuid for file in after.values())


def test_threads_share_a_client(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    sent = store(orthanc, tmp_path, {"Modality": "MR", "instances": 40})
    [instances] = client.study(sent.study_id).instances.values()
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda instance: int(client.dataset(instance).InstanceNumber), instances))
    assert numbers == list(range(1, 41))


def test_who_stored_what(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """The platform's own user is told from people; the parent of an instance comes with its brothers."""
    theirs = store(orthanc, tmp_path / "theirs")
    ours = make_study(tmp_path / "ours", [{"Modality": "MR", "instances": 2}], PatientID="OURS")
    upload(orthanc.url, ("dcmproc", orthanc.password), ours.files)
    for sent, user in ((theirs, "admin"), (ours, "dcmproc")):
        [(series_id, instances)] = client.study(sent.study_id).instances.items()
        assert client.stored_by(instances[0]) == user
        parent = client.parent_of(instances[-1])
        assert (parent.study_id, parent.series_id, sorted(parent.instances)) == (
            sent.study_id, series_id, sorted(instances),
        )  # fmt: skip


def test_pages_of_studies(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    sent = {store(orthanc, tmp_path / str(n), {"instances": 1}, PatientID=f"P{n}").study_id for n in range(5)}
    pages = [client.studies_page(since, 2) for since in (0, 2, 4, 6)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert {study for page in pages for study in page} == sent


def test_changes_are_followed_from_a_mark(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """Every change once; an entry that was deleted with its study speaks for no other database."""
    begun = client.last_change()
    sent = store(orthanc, tmp_path)
    wait_until(lambda: is_stable(orthanc, sent.study_id), 10, "the study is stable")
    found, since, mark, done = [], begun, "", False
    while not done:
        page = client.changes(since, limit=2, mark=mark)
        assert page.same_database
        assert len(page.entries) <= 2
        found += page.entries
        since, done = page.last, page.done
        mark = page.entries[-1].mark if page.entries else mark
    assert [change.seq for change in found] == sorted({change.seq for change in found})
    assert [c.resource_id for c in found if c.kind == "StableStudy"] == [sent.study_id]
    assert len([c for c in found if c.kind == "NewInstance"]) == 3
    assert client.last_change() >= found[-1].seq

    stable = next(change for change in found if change.kind == "StableStudy")
    assert client.changes(stable.seq, mark=stable.mark).same_database
    requests.delete(f"{orthanc.url}/patients/{client.study(sent.study_id).patient_id}", auth=orthanc.auth, timeout=10)
    assert client.changes(stable.seq, mark=stable.mark).same_database
    requests.delete(f"{orthanc.url}/changes", auth=orthanc.auth, timeout=10)
    after = client.changes(stable.seq, mark=stable.mark)
    assert after.same_database
    assert after.entries == ()
    assert after.last >= stable.seq


def test_another_database_is_noticed(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """One whose numbering ends earlier, or where another change stands at our place."""
    store(orthanc, tmp_path)
    page = client.changes(client.last_change() - 1)
    assert page.entries
    assert client.changes(page.last, mark=page.entries[-1].mark).same_database
    assert not client.changes(page.last, mark=page.entries[-1].mark + "x").same_database
    assert not client.changes(page.last + 1000, mark="whatever").same_database
    assert not client.changes(page.last + 1000).same_database


def test_what_orthanc_does_not_hold_is_gone(orthanc: OrthancServer, client: Orthanc, tmp_path: Path) -> None:
    """An unknown study, one that was deleted, a series where a study belongs, and what is no identifier at all."""
    sent = store(orthanc, tmp_path)
    [(series_id, instances)] = client.study(sent.study_id).instances.items()
    for study_id in (NOBODY, series_id, "", "x", "../system", NOBODY + "\n", "27F7126F" + NOBODY[8:]):
        with pytest.raises(StudyGoneError):
            client.study(study_id)
        with pytest.raises(StudyGoneError):
            client.files(study_id)
    requests.delete(f"{orthanc.url}/studies/{sent.study_id}", auth=orthanc.auth, timeout=10).raise_for_status()
    for ask in (client.dataset, client.stored_by, client.parent_of, lambda i: client.download(i, io.BytesIO())):
        for instance in (instances[0], "../../system"):
            with pytest.raises(StudyGoneError):
                ask(instance)
    with pytest.raises(StudyGoneError):
        client.study(sent.study_id)


def test_a_wrong_password_and_a_server_that_is_away_are_said_clearly(orthanc: OrthancServer) -> None:
    """Both can be put right, and then what waited goes on: transient. No password in the message."""
    with pytest.raises(OrthancUnavailableError, match=r"refuses user 'dcmproc' \(401\): correct ORTHANC_REST_USERNAME"):
        Orthanc(orthanc.url, "dcmproc", lambda: "wrong-ünicode").study(NOBODY)
    url = f"http://user:geheim@127.0.0.1:{free_port()}"
    with pytest.raises(OrthancUnavailableError, match=r"cannot be reached .* ORTHANC_REST_URL") as caught:
        Orthanc(url, "dcmproc", lambda: "geheim").study(NOBODY)
    assert "geheim" not in str(caught.value)

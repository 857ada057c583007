"""Sending to peers that behave and misbehave: each instance ends as sent or as rejected with why."""

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import split_dataset
from pynetdicom.transport import ThreadedAssociationServer

from dcm_processor import scanner
from dcm_processor.dicomfiles import DicomFile, find_dicom
from dcm_processor.errors import PeerUnavailableError
from dcm_processor.scanner import Delivery, Peer, send
from tests.dicom import make_study
from tests.servers import free_port

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLossless,
]


@dataclass
class Archive:
    """A peer in this process that keeps what it gets, and does as `answer` says."""

    answer: Callable[[Any], int] = lambda _event: 0x0000
    received: list[tuple[str, UID, bytes]] = field(
        default_factory=list
    )  # SOP instance, transfer syntax, dataset's bytes
    proposed: list[int] = field(default_factory=list)  # contexts of each association
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = field(default_factory=free_port)

    def start(self, **settings: Any) -> ThreadedAssociationServer:
        ae = AE(ae_title="ARCHIVE")
        syntaxes = settings.pop("syntaxes", SYNTAXES)
        for context in settings.pop("contexts", AllStoragePresentationContexts):
            ae.add_supported_context(context.abstract_syntax, syntaxes)
        for name, value in settings.items():
            setattr(ae, name, value)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_REQUESTED, self._requested)]
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        assert server is not None
        return server

    @property
    def peer(self) -> Peer:
        return Peer("127.0.0.1", self.port, "ARCHIVE")

    def _requested(self, event: Any) -> None:
        self.proposed.append(len(event.assoc.requestor.requested_contexts))

    def _store(self, event: Any) -> int:
        status = self.answer(event)
        if status == 0:
            with self.lock:
                content = event.request.DataSet.getvalue()
                self.received.append((event.request.AffectedSOPInstanceUID, event.context.transfer_syntax, content))
        return status


@pytest.fixture
def archive() -> Iterator[Callable[..., Archive]]:
    servers = []

    def start(answer: Callable[[Any], int] = lambda _event: 0x0000, **settings: Any) -> Archive:
        made = Archive(answer)
        servers.append(made.start(**settings))
        return made

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> list[DicomFile]:
    make_study(tmp_path / "study", [{"Modality": "MR", "instances": 4}])
    return find_dicom([tmp_path / "study"]).files


def why(delivery: Delivery) -> list[str]:
    return [refusal.reason for refusal in delivery.rejected]


def test_instances_arrive_byte_for_byte_in_the_transfer_syntax_they_have(
    tmp_path: Path, archive: Callable[..., Archive]
) -> None:
    """Nothing is decoded, changed or encoded again, not even what pydicom would not understand."""
    made = make_study(tmp_path, [{"Modality": "MR", "instances": 1}])
    original = dcmread(made.files[0])
    expected = {}
    for number, syntax in enumerate(SYNTAXES):
        dataset = Dataset()
        dataset.update(original)
        del dataset.PixelData
        dataset.file_meta = original.file_meta
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SOPInstanceUID = f"1.2.3.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
        path = tmp_path / "in" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        expected[f"1.2.3.{number}"] = (syntax, path.read_bytes()[split_dataset(path)[1] :])
    peer = archive()
    delivery = send(find_dicom([tmp_path / "in"]).files, peer.peer)
    assert (delivery.sent, delivery.rejected, delivery.associations) == (len(SYNTAXES), [], 1)
    assert {uid: (syntax, content) for uid, syntax, content in peer.received} == expected


def test_a_deflated_dataset_of_odd_length_is_padded(tmp_path: Path, archive: Callable[..., Archive]) -> None:
    """PS3.5 A.5; zlib's streams are as long as they are, and peers end the association at an odd fragment."""
    made = make_study(tmp_path, [{"Modality": "MR", "instances": 1}])
    dataset = dcmread(made.files[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "odd.dcm"
    padding = b""
    while not padding:
        dataset.StudyDescription += "x"
        dataset.save_as(path, enforce_file_format=True)
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        stream.decompress(path.read_bytes()[split_dataset(path)[1] :])
        padding = stream.unused_data
    path.write_bytes(path.read_bytes()[: -len(padding)])
    peer = archive()
    assert send(find_dicom([path]).files, peer.peer).rejected == []
    assert len(peer.received[0][2]) % 2 == 0


def test_what_a_peer_does_not_take_is_rejected_and_the_rest_sent(
    files: list[DicomFile], archive: Callable[..., Archive]
) -> None:
    """Explicit VR is not converted for a peer that takes implicit VR only: the list says what it does not take."""
    peer = archive(syntaxes=[ImplicitVRLittleEndian])
    delivery = send(files, peer.peer)
    assert why(delivery) == ["the peer does not take MR Image Storage as Explicit VR Little Endian"] * 4
    assert delivery.sent == 0


def test_a_refused_instance_does_not_stop_the_others(files: list[DicomFile], archive: Callable[..., Archive]) -> None:
    answers = iter([0x0000, 0xA700, 0xB000, 0xC001])
    delivery = send(files, archive(lambda _event: next(answers)).peer)
    assert delivery.sent == 2, "success and a warning"
    assert why(delivery)[0].startswith("the peer refused it with status 0xA700: ")
    assert why(delivery)[1].startswith("the peer refused it with status 0xC001")
    assert [refusal.name for refusal in delivery.rejected] == [files[1].name, files[3].name]


def test_each_instance_is_told_of_as_it_is_dealt_with(files: list[DicomFile], archive: Callable[..., Archive]) -> None:
    told: list[tuple[str, str | None]] = []
    send(files, archive().peer, lambda file, reason: told.append((file.name, reason)))
    assert told == [(file.name, None) for file in files]


def test_a_response_is_not_lost_to_a_thread_that_stood_still_for_a_moment(
    files: list[DicomFile], archive: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine: the association's own thread stands still when it has looked whether it is to, then ours."""
    send_msg = DIMSEServiceProvider.send_msg

    def go_on(self: Association, is_paused: bool) -> None:
        if not is_paused and self.is_requestor and self.is_established:
            time.sleep(0.1)
        self.__dict__["paused"] = is_paused

    def send_and_stand_still(self: DIMSEServiceProvider, *message: Any) -> None:
        send_msg(self, *message)
        if self.assoc.is_requestor:
            time.sleep(0.3)

    paused = property(lambda self: self.__dict__.get("paused", False), go_on)
    monkeypatch.setattr(Association, "_is_paused", paused, raising=False)
    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", send_and_stand_still)
    monkeypatch.setattr(scanner, "_SECONDS_TO_ANSWER", 2)
    delivery = send(files, archive().peer)
    assert (delivery.sent, delivery.rejected, delivery.associations) == (len(files), [], 1)


def test_more_than_128_kinds_take_several_associations(tmp_path: Path, archive: Callable[..., Archive]) -> None:
    """As many as there are pairs of SOP class and transfer syntax, 128 at a time; all arrive."""
    made = make_study(tmp_path, [{"Modality": "MR", "instances": 1}])
    original = dcmread(made.files[0])
    classes = [context.abstract_syntax for context in AllStoragePresentationContexts[:100]]
    for number, (sop_class, syntax) in enumerate(
        (sop_class, syntax) for syntax in (ExplicitVRLittleEndian, RLELossless) for sop_class in classes
    ):
        original.SOPClassUID = original.file_meta.MediaStorageSOPClassUID = UID(str(sop_class))
        original.SOPInstanceUID = f"1.2.3.{number}"
        original.file_meta.MediaStorageSOPInstanceUID = UID(original.SOPInstanceUID)
        original.file_meta.TransferSyntaxUID = syntax
        if "PixelData" in original:
            del original.PixelData
        original.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    made.files[0].unlink()
    peer = archive()
    delivery = send(find_dicom([tmp_path]).files, peer.peer)
    assert (delivery.sent, delivery.rejected, delivery.associations) == (200, [], 2)
    assert peer.proposed == [128, 72]
    assert len({uid for uid, _, _ in peer.received}) == 200


class TestALostAssociation:
    def test_is_made_again_and_nothing_is_missing(
        self, files: list[DicomFile], archive: Callable[..., Archive]
    ) -> None:
        aborted: list[int] = []

        def answer(event: Any) -> int:
            if len(peer.received) == 2 and not aborted:
                aborted.append(1)
                event.assoc.abort()
            return 0x0000

        peer = archive(answer)
        delivery = send(files, peer.peer)
        assert (delivery.sent, delivery.rejected, delivery.associations) == (4, [], 2)

    def test_by_one_instance_twice_rejects_that_one(
        self, files: list[DicomFile], archive: Callable[..., Archive]
    ) -> None:
        """A peer that crashes on an instance gets the others."""
        bad = dcmread(files[1].path).SOPInstanceUID

        def answer(event: Any) -> int:
            if event.request.AffectedSOPInstanceUID == bad:
                event.assoc.abort()
            return 0x0000

        delivery = send(files, archive(answer).peer)
        assert delivery.sent == 3
        assert [refusal.name for refusal in delivery.rejected] == [files[1].name]
        assert why(delivery) == ["the association was lost while it was sent, twice"]

    def test_by_every_instance_is_given_up_soon(self, tmp_path: Path, archive: Callable[..., Archive]) -> None:
        make_study(tmp_path, [{"Modality": "MR", "instances": 9}])

        def answer(event: Any) -> int:
            event.assoc.abort()
            return 0x0000

        peer = archive(answer)
        delivery = send(find_dicom([tmp_path]).files, peer.peer)
        assert delivery.sent == 0
        assert len(peer.proposed) == 2 * scanner.GIVE_UP_AFTER
        assert why(delivery)[-1] == f"not sent: {peer.peer} ended the association again and again"

    def test_with_the_peer_gone_rejects_what_is_left(self, files: list[DicomFile]) -> None:
        peer = Archive()
        server = peer.start()

        def stop_after_the_second(_file: DicomFile, _why: str | None) -> None:
            if len(peer.received) == 2 and server.active_associations:
                server.shutdown()
                for association in server.active_associations:
                    association.abort()

        delivery = send(files, peer.peer, stop_after_the_second)
        assert delivery.sent == 2
        assert [reason.split(":")[0] for reason in why(delivery)] == ["not sent", "not sent"]
        assert "does not answer" in why(delivery)[0]


class TestWithoutAnAssociation:
    def test_a_peer_that_is_not_there_is_named(self, files: list[DicomFile]) -> None:
        port = free_port()
        with pytest.raises(PeerUnavailableError, match=f"DCMPROC at 127.0.0.1:{port} does not answer; is it running"):
            send(files, Peer("127.0.0.1", port))

    def test_a_host_that_nobody_knows_is_named(self, files: list[DicomFile]) -> None:
        with pytest.raises(PeerUnavailableError, match=r"nowhere\.invalid:104 (cannot be reached|does not answer)"):
            send(files, Peer("nowhere.invalid", 104))

    def test_a_peer_that_refuses_says_why(self, files: list[DicomFile], archive: Callable[..., Archive]) -> None:
        peer = archive(require_called_aet=True)
        with pytest.raises(PeerUnavailableError, match=r"refuses the association: .*[Cc]alled AE title not recogni"):
            send(files, Peer("127.0.0.1", peer.port, "SOMEBODY"))

    def test_a_server_that_does_not_speak_dicom_is_given_up(self, files: list[DicomFile]) -> None:
        import socketserver

        class Web(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(100)
                self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with socketserver.TCPServer(("127.0.0.1", 0), Web) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            with pytest.raises(PeerUnavailableError, match=r"does not answer|ended the association"):
                send(files, Peer("127.0.0.1", server.server_address[1]))
            thread.join(10)

    def test_nothing_to_send_needs_no_peer(self) -> None:
        assert send([], Peer("127.0.0.1", free_port())).associations == 0


def test_a_file_that_vanishes_is_rejected_alone(files: list[DicomFile], archive: Callable[..., Archive]) -> None:
    files[1].path.unlink()
    delivery = send(files, archive().peer)
    assert delivery.sent == 3
    assert why(delivery) == ["cannot be read: No such file or directory"]

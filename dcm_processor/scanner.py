"""What a scanner does: sends instances to a DICOM peer by C-STORE (PS3.4 Annex B), each in the transfer syntax it has.

Each pair of SOP class and transfer syntax is proposed in a presentation context of its own, so the peer says of each
pair whether it takes it; an association has room for 128 contexts (PS3.8 9.3.2.2), more pairs take more associations.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dcm_processor.dicomfiles import DicomFile, Reader, Refusal
from dcm_processor.errors import PeerUnavailableError, PermanentError

CONTEXTS = 128
"""Presentation contexts of one association."""
GIVE_UP_AFTER = 3
"""Instances in a row that cost their association twice: the peer is taken to be away."""
_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ACCEPT = 30
_SECONDS_TO_ANSWER = 60  # and a second more for each MiB sent

Pair = tuple[UID, UID]
"""SOP class and transfer syntax."""


@dataclass(frozen=True)
class Peer:
    """Whom to send to, and as whom."""

    host: str
    port: int
    called: str = "DCMPROC"
    calling: str = "DCMSEND"

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"


@dataclass
class Delivery:
    """What became of the instances: `sent` were stored by the peer, `rejected` were not."""

    sent: int = 0
    associations: int = 0
    rejected: list[Refusal] = field(default_factory=list)


class _LostError(Exception):
    """The association ended while an instance was on its way."""


def send(
    files: Sequence[DicomFile], peer: Peer, on_file: Callable[[DicomFile, str | None], None] = lambda _file, _why: None
) -> Delivery:
    """Send the instances; `on_file` is told of each, with why it was rejected or None.

    An instance during which the association is lost is sent again on a new one, once; one lost again is rejected.
    Raises PeerUnavailableError where not even the first association can be made; later that rejects what is left.
    """
    delivery = Delivery()
    for pairs, batch in _batches(files):
        with Reader() as reader, _Line(peer, pairs, reader, delivery) as line:
            for file in batch:
                why = line.send(file)
                if why:
                    delivery.rejected.append(Refusal(file.name, why))
                else:
                    delivery.sent += 1
                on_file(file, why)
    return delivery


def _batches(files: Iterable[DicomFile]) -> Iterator[tuple[list[Pair], list[DicomFile]]]:
    """The files in their order, in groups that need at most CONTEXTS pairs."""
    by_pair: dict[Pair, list[tuple[int, DicomFile]]] = {}
    for number, file in enumerate(files):
        by_pair.setdefault((file.sop_class, file.transfer_syntax), []).append((number, file))
    pairs = list(by_pair)
    for start in range(0, len(pairs), CONTEXTS):
        group = pairs[start : start + CONTEXTS]
        yield (
            group,
            [file for _, file in sorted((entry for pair in group for entry in by_pair[pair]), key=lambda e: e[0])],
        )


class _Line:
    """An association that is made when it is first needed, and made again when it was lost."""

    def __init__(self, peer: Peer, pairs: Sequence[Pair], reader: Reader, delivery: Delivery) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # files are streamed as they are, not read, changed and written again
        self._peer = peer
        self._pairs = pairs
        self._reader = reader
        self._delivery = delivery
        self._association: Association | None = None
        self._accepted: set[Pair] = set()
        self._lost_in_a_row = 0
        self._away: str | None = None  # why nothing more is tried

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._association is not None and self._association.is_established:
            (self._association.release if kind is None else self._association.abort)()

    def send(self, file: DicomFile) -> str | None:
        """None once the peer stored it, else why not.

        Raises PeerUnavailableError where the very first association cannot be made.
        """
        if self._away:
            return f"not sent: {self._away}"
        for _ in range(2):
            try:
                if not self._is_usable:
                    self._connect()
                if (file.sop_class, file.transfer_syntax) not in self._accepted:
                    return f"the peer does not take {file.sop_class.name} as {file.transfer_syntax.name}"
                why = self._store(file)
            except _LostError:
                self._association = None
            except PeerUnavailableError as error:
                if not self._delivery.associations:
                    raise
                self._away = str(error)
                return f"not sent: {self._away}"
            else:
                self._lost_in_a_row = 0
                return why
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= GIVE_UP_AFTER:
            self._away = f"{self._peer} ended the association again and again"
        return "the association was lost while it was sent, twice"

    @property
    def _is_usable(self) -> bool:
        """An association on which nothing was accepted has ended, and another one would not do better."""
        return self._association is not None and (self._association.is_established or not self._accepted)

    def _connect(self) -> None:
        ae = AE(ae_title=self._peer.calling)
        ae.connection_timeout, ae.acse_timeout = _SECONDS_TO_CONNECT, _SECONDS_TO_ACCEPT
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in self._pairs]
        try:
            association = ae.associate(
                self._peer.host,
                self._peer.port,
                contexts=contexts,
                ae_title=self._peer.called,
                evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)],
            )
        except OSError as error:  # a host name that nobody knows
            raise PeerUnavailableError(f"{self._peer} cannot be reached: {error.strerror or error}") from None
        if not association.is_established and not association.rejected_contexts:
            raise PeerUnavailableError(f"{self._peer} {_why_not(association)}")
        if association.is_established:
            association._reactor_checkpoint = _Checkpoint(association)
        self._delivery.associations += 1
        self._association = association
        self._accepted = {
            (UID(str(context.abstract_syntax)), UID(context.transfer_syntax[0]))
            for context in association.accepted_contexts
        }

    def _store(self, file: DicomFile) -> str | None:
        assert self._association is not None
        try:
            size = file.path.stat().st_size
            # a deflated dataset of odd length gets a NUL at its end when it is sent (PS3.5 A.5)
            is_even = file.transfer_syntax != DeflatedExplicitVRLittleEndian or size % 2 == 0
            content: Any = file.path if file.is_sendable_as_is and is_even else self._reader.read(file)
        except PermanentError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        self._association.dimse_timeout = _SECONDS_TO_ANSWER + size / (1 << 20)
        try:
            status = self._association.send_c_store(content)
        except RuntimeError:  # the association ended since we looked
            raise _LostError from None
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except (ValueError, AttributeError, TypeError) as error:
            return f"cannot be encoded for sending ({type(error).__name__})"
        if "Status" not in status:
            raise _LostError
        return _why_rejected(status)


class _Checkpoint(threading.Event):
    """Where an association's own thread is held while a request waits for its response.

    pynetdicom 3.0.4 takes the thread for held when it is about to look whether it is to be. One that the system stops
    right then takes away the response that comes meanwhile, and the request waits until the peer ends the association,
    30 s later. Here `clear` returns when the thread is held.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association, self._held = association, threading.Event()
        self.set()

    def set(self) -> None:
        self._held.clear()
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        if self.is_set():
            return True
        self._held.set()
        went_on = super().wait(timeout)
        self._held.clear()
        return went_on

    def clear(self) -> None:
        super().clear()
        if threading.current_thread() is not self._association:
            while self._association.is_alive() and not self._held.wait(0.01):
                pass


def _send_at_once(event: evt.Event) -> None:
    """Switch off Nagle's algorithm: with it each request's last packet waits 40 ms for the peer's delayed ACK."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _why_rejected(status: Dataset) -> str | None:
    """None for the statuses with which a peer has stored the instance (PS3.4 Table B.2-1): success and the warnings."""
    code = int(status.Status)
    if code_to_category(code) in ("Success", "Warning"):
        return None
    meaning = STORAGE_SERVICE_CLASS_STATUS.get(code, ("", ""))[1]
    return f"the peer refused it with status 0x{code:04X}" + (f": {meaning}" if meaning else "")


def _why_not(association: Association) -> str:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        return f"refuses the association: {answer.reason_str}; check the AE titles and what the peer allows"
    if association.is_aborted and answer is not None:
        return "ended the association at once; check the AE titles and what the peer allows"
    return "does not answer; is it running, and are host and port right?"

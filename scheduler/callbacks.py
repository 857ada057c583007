"""Asks every callback whether its job applies, where a callback can harm nothing but its own job.

A ward (scheduler/ward.py, kept by scheduler/warden.py) runs callbacks one after another, each with its own copies of
everything. It belongs to one service, so that what a service does to it (a module's state, a patched function, a word
on its socket) meets no other; only services whose code cannot do any such thing share one, and a ward costs more than a
hundred callbacks. A callback that raises, or returns something else than the contract says, makes its job errored; so
does one that hangs or ends the ward. One that leaves something behind (a process, a thread, a changed environment)
keeps its answer. After these the ward and all it started are killed, and the callbacks that follow run in a new one.
"""

import contextlib
import difflib
import json
import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcm_processor import contract
from dcm_processor.errors import TransientError
from dcm_processor.plan import CallbackOutcome, JobKey, ReadPlace, instances_of
from dcm_processor.registry import Job
from scheduler.reading import MOST, Seen, told
from scheduler.ward import DUMP_SIGNAL, NUMBER, TAKEN, Ward
from scheduler.warden import Warden

MAX_OUTPUT = 8_000
"""Bytes kept of what a callback prints: the first half and the last."""
MAX_NOTES = 20
MAX_HANGS = 2
"""A job whose callback hung for so many series is not asked about the others: each would cost the whole time."""
_MAX_ANSWER = 16_000_000  # bytes; ours are smaller
_START_SECONDS = 30
_DUMP_SECONDS = 0.2


def run_callbacks(
    jobs: Sequence[Job],
    headers: Mapping[str, Any],
    selected: Sequence[str],
    folders: Mapping[str, Path],
    timeout: float,
    *,
    recording: bool = False,
) -> dict[JobKey, CallbackOutcome]:
    """What the callbacks of all enabled jobs say of a study; nothing that a callback does makes it raise.

    `jobs` are in plan order; `headers` are the study's; `selected` is HEADER_FIELDS; `folders` maps services
    to their registry folders; `timeout` is what each callback has, in seconds. With `recording` the outcomes have what
    was read of the headers.

    Raises TransientError where no process for them can be started.
    """
    study: dict[str, Any] = json.loads(json.dumps(headers))
    services = {job.settings.job_name: job.service for job in jobs}
    calls = [(job, key) for job in jobs if not job.settings.disabled for key in instances_of(job, study["seriesIds"])]
    outcomes: dict[JobKey, CallbackOutcome] = {}
    hangs: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        ward: _Conversation | None = None
        for number, (job, key) in enumerate(calls):
            if hangs[key.job_name] == MAX_HANGS:
                outcomes[key] = _errored(f"not asked: the callback gave no answer for {MAX_HANGS} other series")
                continue
            if ward is None or ward.owner not in (None, job.service):
                stack.close()
                injected = {other: outcome.injected for other, outcome in outcomes.items()}
                inside = Ward(
                    calls,
                    study,
                    selected,
                    folders=folders,
                    injected=injected,
                    services=services,
                    recording=recording,
                )
                ward = stack.enter_context(contextlib.closing(_Conversation(inside)))
            answer = ward.ask(number, job.service, timeout)
            notes = "".join(_notes(answer.missed, selected, study))
            reads = told(answer.read, study, selected) if recording else None
            outcomes[key] = replace(answer.outcome, output=answer.outcome.output + notes, reads=reads)
            hangs[key.job_name] += answer.hung
            if answer.last:
                stack.close()
                ward = None
    return outcomes


def _errored(reason: str, output: str = "") -> CallbackOutcome:
    return CallbackOutcome(applies=False, error=reason, output=output)


def _notes(missed: Sequence[str], selected: Sequence[str], headers: Mapping[str, Any]) -> Iterator[str]:
    """A line for each header keyword that the callback read in vain: not selected, or none at all."""
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - heavy, and the controller itself asks no callback

    for keyword in missed[:MAX_NOTES]:
        if tag_for_keyword(keyword) is not None:
            yield f"note: HEADER_FIELDS does not select {keyword!r}\n"
        else:
            nearest = difflib.get_close_matches(keyword, sorted({*selected, *headers}), 1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            yield f"note: {keyword!r} is no DICOM keyword{hint}\n"
    if len(missed) > MAX_NOTES:
        yield f"note: {len(missed) - MAX_NOTES} more were read in vain\n"


@dataclass(frozen=True)
class _Answer:
    outcome: CallbackOutcome
    missed: Sequence[str] = ()
    read: Sequence[Seen] = ()
    last: bool = True  # its ward cannot be asked again
    hung: bool = False


class _Conversation:
    """Our end of a ward: one callback at a time, its answer, and what it prints.

    `owner` is the one service that may be asked here, once there is one.
    """

    def __init__(self, ward: Ward) -> None:
        self._ward, theirs = socket.socketpair()
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        self._warden = Warden(lambda: ward.serve(theirs, output), keep=[theirs.fileno(), output])
        theirs.close()
        os.close(output)
        self._selector = selectors.DefaultSelector()
        for source in (self._ward, self._output, self._warden.control):
            self._selector.register(source, selectors.EVENT_READ)
        self.owner: str | None = None
        self._ended = False
        self._status: int | None = None
        self._received, self._printed = b"", _Printed()
        pid = self._receive(NUMBER.size, time.monotonic() + _START_SECONDS)
        if pid is None:
            self.close()
            raise TransientError("the process that callbacks run in does not start; is the machine out of memory?")
        self._pid: int = NUMBER.unpack(pid)[0]

    def ask(self, number: int, service: str, timeout: float) -> _Answer:
        """Let a callback of the service run, for `timeout` seconds at most."""
        self._printed = _Printed()
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError):  # it is gone: what follows finds out how
            self._ward.sendall(NUMBER.pack(number))
        while (size := self._receive(NUMBER.size, deadline)) == TAKEN:
            self.owner = service
        length = NUMBER.unpack(size)[0] if size else 0
        text = self._receive(length, deadline) if 0 < length <= _MAX_ANSWER else None
        self._read_output()
        if text or length > _MAX_ANSWER:
            return self._understood(text or b"")
        if self._ended:
            return _Answer(_errored(f"the callback ended its process: {_how(self._status)}", str(self._printed)))
        self._dump()
        reason = f"the callback gave no answer within {timeout:g} s (CALLBACK_TIMEOUT)"
        return _Answer(_errored(reason, str(self._printed)), hung=True)

    def close(self) -> None:
        """End the ward and all it started."""
        if not self._ended:
            self._warden.end()
        self._selector.close()
        self._ward.close()
        os.close(self._output)

    def _understood(self, text: bytes) -> _Answer:
        try:
            said = json.loads(text)
            outcome = CallbackOutcome(
                applies=bool(said["applies"]),
                injected=dict(said["injected"]),
                error=said["error"] and _clean(said["error"]),
                traceback=said["traceback"] and _clean(said["traceback"]),
                output=str(self._printed),
            )
            return _Answer(outcome, list(said["missed"]), _seen(said["read"]), bool(said["last"]))
        except (ValueError, TypeError, LookupError, AttributeError):
            reason = "the callback wrote into the socket that its answer goes through"
            return _Answer(_errored(reason, str(self._printed)))

    def _receive(self, size: int, deadline: float) -> bytes | None:
        """So many bytes from the ward, or None: it ended, or the time is over."""
        while len(self._received) < size:
            ready = {key.fileobj for key, _ in self._selector.select(max(0, deadline - time.monotonic()))}
            if self._output in ready:
                self._read_output()
            if self._ward in ready:
                self._received += self._read_answer()
            elif self._warden.control in ready:
                self._ended, self._status = True, self._warden.end()
                return None
            elif time.monotonic() >= deadline:
                return None
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _read_answer(self) -> bytes:
        try:
            chunk = self._ward.recv(1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            self._selector.unregister(self._ward)
        return chunk

    def _read_output(self) -> None:
        """Take what was printed; two reads empty a pipe, and one that prints without end does not hold us."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(2):
                chunk = os.read(self._output, 1 << 16)
                self._printed.add(chunk)
                if not chunk and self._output in self._selector.get_map():
                    self._selector.unregister(self._output)

    def _dump(self) -> None:
        """Let the ward print where it hangs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, DUMP_SIGNAL)
        deadline = time.monotonic() + _DUMP_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            self._selector.select(left)
            self._read_output()
        self._printed.cut_our_frames()


_OUR_FRAME = f'  File "{contract.__file__}"'.encode()


class _Printed:
    """What a callback printed, cut in the middle where it is too much."""

    def __init__(self) -> None:
        self._first, self._last, self._size = bytearray(), bytearray(), 0

    def add(self, chunk: bytes) -> None:
        fits = MAX_OUTPUT // 2 - len(self._first)
        self._first += chunk[:fits]
        self._last = (self._last + chunk[fits:])[-MAX_OUTPUT // 2 :]
        self._size += len(chunk)

    def cut_our_frames(self) -> None:
        """Of a dump (innermost frame first) keep the service's frames: the rest is how it was called."""
        title = b"Stack (most recent call first):\n"
        if (begin := self._last.rfind(title)) >= 0:
            self._cut(self._last, begin)
        elif (begin := self._first.rfind(title)) < 0:
            return
        elif self._cut(self._first, begin):
            self._size = len(self._first)  # all that came later is of the dump as well
            self._last.clear()
        else:
            self._cut(self._last, 0)

    def _cut(self, part: bytearray, begin: int) -> bool:
        ours = part.find(_OUR_FRAME, begin)
        if ours >= 0:
            self._size -= len(part) - ours
            del part[ours:]
        return ours >= 0

    def __str__(self) -> str:
        cut = self._size - len(self._first) - len(self._last)
        gap = f"\n[… {cut:,} bytes cut …]\n".encode() if cut else b""
        text = _clean(bytes(self._first + gap + self._last).decode(errors="replace"))
        return text if not text or text.endswith("\n") else text + "\n"


def _seen(said: Sequence[Any]) -> list[Seen]:
    """What the ward says was read; it runs foreign code, so it may say anything.

    Raises ValueError or TypeError for what is no such list.
    """
    return [Seen(_clean(str(keyword)), ReadPlace(place), bool(there)) for keyword, place, there in said[:MOST]]


def _clean(text: str) -> str:
    """The text as every database takes it: without NUL and half characters."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _how(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "killed, together with the process that kept it"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    hint = " (out of memory, perhaps)" if -code == signal.SIGKILL else ""
    known = {number.value: number.name for number in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}{hint}"

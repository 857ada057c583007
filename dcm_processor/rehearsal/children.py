"""The programs that call foreign code for a rehearsal: one for callbacks, one for each worker function.

None outlives the `with` or the call that started it, however that ends.
"""

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dcm_processor.errors import PermanentError
from dcm_processor.outcome import Outcome
from dcm_processor.plan import CallbackOutcome, JobKey
from dcm_processor.registry import Job
from dcm_processor.settings import CHECKOUT

_POLL = 0.1  # seconds
_PATIENCE = 60.0  # seconds that a child has to end what it runs


@dataclass(frozen=True)
class Question:
    """What `scheduler.callbacks.run_callbacks` is asked of one study."""

    jobs: Sequence[Job]
    headers: Mapping[str, Any]
    selected: Sequence[str]
    folders: Mapping[str, Path]
    timeout: float

    def to_json(self) -> dict[str, Any]:
        """For `scheduler.asking`."""
        jobs = [{"service": job.service, "digest": job.digest, "settings": job.settings.to_json()} for job in self.jobs]
        folders = {service: str(folder) for service, folder in self.folders.items()}
        return {**vars(self), "jobs": jobs, "selected": list(self.selected), "folders": folders}


@contextlib.contextmanager
def asking() -> Iterator[Callable[[Question], dict[JobKey, CallbackOutcome]]]:
    """What the callbacks of all enabled jobs say of one study after the other, by one program."""
    with _program("scheduler.asking") as (child, complaints):

        def ask(question: Question) -> dict[JobKey, CallbackOutcome]:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it is gone: what follows says how
                child.stdin.write(json.dumps(question.to_json()).encode() + b"\n")
                child.stdin.flush()
            answer = _answer(child.stdout.readline(), child, complaints)
            return {
                JobKey(each.pop("jobName"), each.pop("seriesId")): CallbackOutcome(**each)
                for each in answer["outcomes"]
            }

        yield ask


def run_function(
    wish: Mapping[str, Any], on_message: Callable[[dict[str, Any]], None], on_log: Callable[[str], None]
) -> Outcome:
    """Run a worker function (`worker.rehearsal.Wish`); tells how it goes on, and its log as it grows."""
    log = Path(wish["log"])
    with _program("worker.rehearsal") as (child, complaints), contextlib.ExitStack() as stack:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(wish).encode() + b"\n")
        child.stdin.flush()
        reading = stack.enter_context(_Growing(log, on_log))
        message: dict[str, Any] = {}
        while "outcome" not in message:
            if select.select([child.stdout], [], [], _POLL)[0]:
                message = _answer(child.stdout.readline(), child, complaints)
                on_message(message)
            reading.read()
        reading.read()
    return Outcome.from_json(message["outcome"])


class _Growing:
    """A file of text that somebody else writes."""

    def __init__(self, path: Path, on_text: Callable[[str], None]) -> None:
        path.touch()
        self._file = path.open(encoding="utf-8", errors="replace", newline="")
        self._on_text = on_text

    def __enter__(self) -> "_Growing":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> None:
        """Tell what is new."""
        if text := self._file.read():
            self._on_text(text)


@contextlib.contextmanager
def _program(module: str) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=CHECKOUT,  # a service's folder may hold a worker.py
            start_new_session=True,  # what the terminal sends is for us
        )
        try:
            yield child, complaints
        finally:
            _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Have it end what it runs, and be gone."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answer(said: bytes, child: "subprocess.Popen[bytes]", complaints: IO[bytes]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(said)
    except ValueError:
        complaints.seek(0)
        last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
        words = [f"the program that runs foreign code ended with {child.wait(_PATIENCE)}", *last]
        raise PermanentError(": ".join(words)) from None
    return answer

"""Asking what plan a study would get now, in a process of its own: callbacks are foreign code and may hang or crash.

As a program (`python -m scheduler.explaining`) it is that process: it reads `{"settings", "studyId", "reads"}`
from stdin and writes `{"plan"}`, or `{"error", "message"}` for an error of ours, to stdout.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from dcm_processor import errors
from dcm_processor.errors import DcmProcessorError, TransientError
from dcm_processor.ledger import Ledger
from dcm_processor.settings import Settings

PROGRAM = (sys.executable, "-m", "scheduler.explaining")


class Explainer:
    """Explains studies, each in a child that gets `seconds`, `at_once` of them at a time."""

    def __init__(
        self, settings: Settings, *, seconds: float = 60, at_once: int = 2, program: Sequence[str] = PROGRAM
    ) -> None:
        self._settings = settings.model_dump(mode="json")
        self._seconds = seconds
        self._free = threading.BoundedSemaphore(at_once)
        self._program = program

    def __call__(self, study_id: str, *, reads: bool = False) -> Mapping[str, Any]:
        """The plan the study would get now, nothing enqueued: the fields of scheduler.api.models.Explained.

        With `reads` it has what callbacks read of the headers.

        Raises what scheduler.planning.explain raises, TransientError where too many are asked for at once, TimeoutError
        where it took too long, and RuntimeError where the child died.
        """
        if not self._free.acquire(blocking=False):
            raise TransientError("the scheduler explains as many studies as it can at once; try again in a few seconds")
        try:
            answer = self._ask({"settings": self._settings, "studyId": study_id, "reads": reads})
        finally:
            self._free.release()
        if "error" in answer:
            raise _error(answer["error"], answer["message"])
        plan: Mapping[str, Any] = answer["plan"]
        return plan

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        with subprocess.Popen(
            self._program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that what it started ends with it
        ) as child:
            try:
                out, _ = child.communicate(json.dumps(question).encode(), timeout=self._seconds)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"explaining the study took longer than {self._seconds:g} s") from None
            finally:
                _end_session(child.pid)
        try:
            answer = json.loads(out)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RuntimeError(f"the process that explains ended with {child.returncode} and without an answer")  # noqa: TRY004 - no caller passed a wrong type
        return answer


def main() -> None:
    """Be the child."""
    from scheduler import planning  # noqa: PLC0415 - heavy, and needed in the child alone

    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed is no answer
        question = json.load(sys.stdin)
        planning.stay_small()
        try:
            settings, study_id = Settings.model_validate(question["settings"]), question["studyId"]
            plan = planning.explain(settings, study_id, _held_since(settings, study_id), reads=question["reads"])
            json.dump({"plan": plan}, answers)
        except DcmProcessorError as error:
            json.dump({"error": type(error).__name__, "message": str(error)}, answers)


def _held_since(settings: Settings, study_id: str) -> float | None:
    with contextlib.closing(Ledger(settings.database_url)) as ledger:
        return ledger.held_since(study_id)


def _error(name: str, message: str) -> DcmProcessorError:
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DcmProcessorError)):
        kind = DcmProcessorError
    return kind(message)


def _end_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()

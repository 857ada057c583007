"""Asking what plan a study would get now, in a process of its own: callbacks are foreign code and may hang or crash."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from dcm_processor.errors import OrthancUnavailableError, StudyGoneError, TransientError
from dcm_processor.settings import Settings

PLANNING = (sys.executable, "-m", "scheduler.planning")
"""The program that plans the study named by its argument and prints what came of it."""


class Explainer:
    """Explains studies, each in a child that gets `seconds`, `at_once` of them at a time."""

    def __init__(
        self, settings: Settings, *, seconds: float = 60, at_once: int = 2, program: Sequence[str] = PLANNING
    ) -> None:
        self._environment = {**os.environ, **_environment(settings)}
        self._seconds = seconds
        self._free = threading.BoundedSemaphore(at_once)
        self._program = program

    def __call__(self, study_id: str) -> Mapping[str, Any]:
        """The plan the study would get now, nothing enqueued: the fields of scheduler.api.models.Explained.

        Raises StudyGoneError, OrthancUnavailableError, TransientError where too many are asked for at once,
        TimeoutError where it took too long, and RuntimeError where the child died.
        """
        if not self._free.acquire(blocking=False):
            raise TransientError("the scheduler explains as many studies as it can at once; try again in a few seconds")
        try:
            answer = self._ask(study_id)
        finally:
            self._free.release()
        match answer["ending"]:
            case "gone":
                raise StudyGoneError(answer["reason"])
            case "unavailable":
                raise OrthancUnavailableError(answer["reason"])
        return answer

    def _ask(self, study_id: str) -> dict[str, Any]:
        with subprocess.Popen(
            [*self._program, study_id],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that what it started ends with it
        ) as child:
            try:
                out, _ = child.communicate(timeout=self._seconds)
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


def _environment(settings: Settings) -> dict[str, str]:
    """Environment variables that give a child these very settings."""
    given = settings.model_dump(mode="json", exclude_none=True)
    return {key: " ".join(value) if isinstance(value, list) else str(value) for key, value in given.items()}


def _end_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return

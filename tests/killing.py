"""To be killed at any step: by an exception before the n-th line that runs, or as a process before a change on disk."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


class Killed(BaseException):
    """Nothing of ours catches it."""


def killed_at(step: int, act: Callable[[], object], *modules: ModuleType) -> bool:
    """Run `act` until line number `step` of those that run in these modules; False: it ended before."""
    files = {str(Path(module.__file__ or "")) for module in modules}
    left = step

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Killed
        return trace

    # In a thread of its own: where a trace function raises within an `except`, Python 3.11 goes on as if that exception
    # were still being handled, and every later one in the thread would have it as its context.
    ends: list[BaseException | None] = []

    def run() -> None:
        sys.settrace(trace)
        try:
            act()
            ends.append(None)
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            ends.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (end,) = ends
    if end is not None and not isinstance(end, Killed):
        raise end
    return end is not None


CHANGES = ("fsync", "rename", "symlink", "unlink", "rmdir", "mkdir", "utime", "chmod")


def died_at(step: int, act: Callable[[], object]) -> int:
    """Run `act` in a child that is killed before its `step`th change to the disk; returns its wait status."""
    child = os.fork()
    if child == 0:
        left = step
        try:

            def counted(function: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args, **kwargs)

                return call

            for name in CHANGES:
                setattr(os, name, counted(getattr(os, name)))
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]

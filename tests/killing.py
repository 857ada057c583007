"""To be killed at any step, without a process that dies: an exception before the n-th line that runs."""

import sys
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

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False

"""Room on DATA's disk: how much there is, and how much of it has to stay free."""

import shutil
from pathlib import Path

MIN_FREE = 2**30
"""Bytes that stay free where nothing else is said; of a small disk a twentieth."""
_SMALL = 20


def free(path: Path) -> int:
    """Bytes that are free on the disk under `path`, for others than root.

    Raises OSError where there is no such path.
    """
    return shutil.disk_usage(path).free


def must_stay_free(path: Path, wish: int | None) -> int:
    """Bytes that are to stay free on that disk; `wish` is MIN_FREE as it was set.

    Raises OSError where there is no such path.
    """
    return wish if wish is not None else min(MIN_FREE, shutil.disk_usage(path).total // _SMALL)


def is_low(path: Path, wish: int | None) -> bool:
    """Whether less is free than is to stay free: nothing more is fetched to there.

    Raises OSError where there is no such path.
    """
    return free(path) < must_stay_free(path, wish)

"""A real disk that is soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import require


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of so many bytes at the folder `place`; only root can mount one."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False)
    require(made.returncode == 0, "a small disk", "this machine does not let the test mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)

"""Whether two hosts share DATA: a file in it with a random name for it, `DATA/.dcm-processor-id`.

The controller makes it, and orders carry it; a worker that finds another one in its own DATA, or none, is on a host
that does not share it. So the file must never be copied into the DATA of another host.
"""

import re
import secrets
from pathlib import Path

from dcm_processor import service_tree

FILE = ".dcm-processor-id"
_ID = re.compile(r"[0-9a-f]{32}")


def read(data: Path) -> str:
    """The id of DATA, or "" where it has none."""
    try:
        text = (data / FILE).read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return text if _ID.fullmatch(text) else ""


def make(data: Path) -> str:
    """The id of DATA, made where it has none: for the one controller that leads.

    Raises OSError where DATA cannot be written.
    """
    if not (found := read(data)):
        data.mkdir(parents=True, exist_ok=True)
        new = data / f"{FILE}.new"
        new.write_text(secrets.token_hex(16) + "\n", encoding="ascii")
        service_tree.sync(new)
        new.rename(data / FILE)
        service_tree.sync(data)
        found = read(data)
    return found

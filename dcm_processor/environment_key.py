"""Which environment a service calls for: the same requirements give the same one, built once on each host.

Worker and scheduler both work it out, so the scheduler can say how the environment of a service stands.
"""

import hashlib
import json
import re
import sys
import sysconfig
from pathlib import Path

from dcm_processor.settings import CHECKOUT

DEFAULT_REQUIREMENTS = CHECKOUT / "requirements" / "service-default.txt"
"""What a service without requirements.txt gets."""
PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)))
"""What environments are made from: our own venv may go, what it was made from stays."""

# A requirement that names a file beside requirements.txt: its content belongs to the key as well.
_NAMES_FILES = re.compile(
    r"^\s*(-r|-c|-e|--requirement|--constraint|--editable|\.|/|file:)|@\s*(\.|/|file:)", re.MULTILINE
)


def environment_key(requirements: bytes, version: str) -> str:
    """16 hexadecimal digits that name the environment for the content of a requirements.txt.

    `version` is the service's digest; it counts where the requirements name files of the service.
    """
    parts = [
        requirements.replace(b"\r\n", b"\n").decode("utf-8", "surrogateescape"),
        f"{sys.implementation.cache_tag} {PYTHON}",  # a new patch release keeps what was built
        sysconfig.get_platform(),
        version if _NAMES_FILES.search(requirements.decode("utf-8", "replace")) else "",
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

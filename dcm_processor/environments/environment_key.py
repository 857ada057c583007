"""Which environment a service calls for: the same requirements give the same one, built once on each host.

Worker and scheduler both work it out, so the scheduler can say how the environment of a service stands.
"""

import functools
import hashlib
import json
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from dcm_processor.environments.requirements_lock import LOCK, REQUIREMENTS, body_of, names_files
from dcm_processor.settings import Settings

DEFAULT_REQUIREMENTS = Path(__file__).parents[1] / "resources" / "service-default.txt"
"""What a service without requirements.txt gets."""
PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)))
"""What environments are made from that ask for no other: our own venv may go, what it was made from stays."""
_SCRIPT = "script.sh"  # it may bring libraries that packages are compiled against


@dataclass(frozen=True)
class Recipe:
    """What an environment is made from: a file of requirements, and a Python (None: the one that runs us).

    `key` is 16 hexadecimal digits that name it.
    """

    key: str
    requirements: Path
    python_version: str | None

    @property
    def is_default(self) -> bool:
        return self.requirements == DEFAULT_REQUIREMENTS


def recipe(settings: Settings, module: Path, version: str, python_version: str | None = None) -> Recipe:
    """What the environment of a service is made from: requirements.lock, requirements.txt, or the default ones.

    `module` is the module folder of a version and `version` its digest, which counts where the requirements name files
    of the service; `python_version` is its `pythonVersion`. Raises OSError where the files cannot be read.
    """
    found = (module / name for name in (LOCK, REQUIREMENTS))
    source = next((path for path in found if path.is_file()), DEFAULT_REQUIREMENTS)
    text = body_of(source.read_bytes())
    if python_version is not None and (own_python() + ".").startswith(python_version + "."):
        python_version = None
    script = module / _SCRIPT
    parts = [
        hashlib.sha256(text).hexdigest(),
        python_version or f"{sys.implementation.cache_tag} {PYTHON}",  # a new patch release keeps what was built
        system(settings),
        hashlib.sha256(script.read_bytes()).hexdigest() if script.is_file() else "",
        version if names_files(text) else "",
    ]
    return Recipe(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16], source, python_version)


def own_python() -> str:
    """The version of the Python that runs us, like "3.13.1"."""
    return platform.python_version()


def system(settings: Settings) -> str:
    """The system that packages are built for: platform, distribution, and in containers their base image."""
    image = settings.BASE_IMAGE if settings.MODE == "containers" else None
    return f"{_distribution()} {image or ''}".strip()


def maker(settings: Settings) -> str:
    """Whose an environment is: workers of another system or Python may share the folder, and need others."""
    return f"{system(settings)} {PYTHON}"


@functools.cache
def _distribution() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:  # macOS
        release = {}
    return " ".join(part for part in (sysconfig.get_platform(), release.get("ID"), release.get("VERSION_ID")) if part)

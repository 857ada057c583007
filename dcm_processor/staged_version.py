"""A version of a service while it is made: a copy of its source, locked and compiled, named by its content."""

import py_compile
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcm_processor import json_text, service_tree
from dcm_processor.environments import requirements_lock
from dcm_processor.manifest import (
    MANIFEST,
    Defaults,
    Fault,
    ParsedManifest,
    check_service_name,
    parse_manifest,
)
from dcm_processor.names import required_modules
from dcm_processor.service_tree import PARTS

MAX_MANIFEST = 2 * json_text.LARGEST
"""Bytes of a settings.json that are read: what is larger is refused, and this is enough to see that it is."""


@dataclass(frozen=True)
class StagedVersion:
    """A version that is not yet in its place."""

    digest: str
    manifest: ParsedManifest
    warnings: tuple[Fault, ...]


def stage(
    name: str, source: Path, staged: Mapping[str, Path], lock: requirements_lock.Lock | None, defaults: Defaults
) -> StagedVersion:
    """Make a version of a source in the folders `staged`, one for each part, which are not there yet.

    Raises ServiceError for files that are not taken, ManifestError where the name would hide what its requirements
    bring, and OSError. What is wrong with its settings.json is told by the manifest.
    """
    service_tree.copy({part: source / part for part in PARTS}, staged)
    odd = []
    if lock is not None:
        requirements_lock.put(staged["module"], lock)
        if lock.warning:
            odd.append(Fault(name, f"module/{requirements_lock.REQUIREMENTS}", "", lock.warning))
    digest = service_tree.digest(staged)
    check_service_name(name, _required_modules(staged["module"]))
    manifest = read_manifest(name, staged["registry"], defaults)
    return StagedVersion(digest, manifest, (*manifest.warnings, *_compile(name, staged["registry"]), *odd))


def read_manifest(name: str, folder: Path, defaults: Defaults) -> ParsedManifest:
    """What the settings.json of a registry folder says; raises OSError."""
    path = folder / "settings.json"
    if not path.exists():
        return ParsedManifest((), (Fault(name, MANIFEST, "", "is missing; it says which jobs the service has"),))
    with path.open("rb") as file:
        return parse_manifest(file.read(MAX_MANIFEST), name, defaults)


def _required_modules(folder: Path) -> set[str]:
    """What the requirements.txt of a module folder brings, if it has one."""
    path = folder / "requirements.txt"
    return required_modules(path.read_bytes().decode(errors="replace")) if path.is_file() else set()


def _compile(name: str, folder: Path) -> list[Fault]:
    """Compile a registry folder's Python, so that the scheduler need not for each study.

    Returns what does not compile.
    """
    odd = []
    for path in sorted(folder.rglob("*.py")):
        try:
            with warnings.catch_warnings(action="ignore"):
                py_compile.compile(
                    str(path), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
                )
        except py_compile.PyCompileError as error:
            version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
            reason = f"{version} cannot read it, its callbacks will fail: {error.exc_value}"
            odd.append(Fault(name, f"registry/{path.relative_to(folder)}", "", reason))
    return odd

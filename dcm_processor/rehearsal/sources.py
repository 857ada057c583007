"""Source folders of services: all that is wrong with them, and the registry they would make together."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcm_processor import service_tree
from dcm_processor.errors import ManifestError, ServiceError
from dcm_processor.import_check import syntax
from dcm_processor.manifest import MANIFEST, Defaults, Fault, ParsedManifest, check_service_name, parse_manifest
from dcm_processor.names import nearest_service_name, required_modules
from dcm_processor.registry import ServiceRegistry, combine, validate
from dcm_processor.staged_version import MAX_MANIFEST


@dataclass(frozen=True)
class Source:
    """A service as its author has it; `digest` names its content, "" where that cannot be read."""

    name: str
    path: Path
    digest: str
    manifest: ParsedManifest
    faults: tuple[Fault, ...]  # of the folder and of the manifest
    warnings: tuple[Fault, ...]

    @property
    def registry(self) -> Path:
        return self.path / "registry"

    @property
    def module(self) -> Path:
        return self.path / "module"


def read_source(path: Path, defaults: Defaults, name: str | None = None) -> Source:
    """Look at a folder; never raises over what it holds. Without `name` it is what its functions are called by."""
    path = path.absolute()
    text, unreadable = _manifest_text(path / "registry" / "settings.json")
    name = name or _name_in(text) or path.name
    faults = list(_faults_of_folder(name, path))
    manifest = ParsedManifest(())
    if unreadable:
        faults.append(Fault(name, MANIFEST, "", unreadable))
    else:
        manifest = parse_manifest(text, name, defaults)
    digest = ""
    if not faults:
        try:
            digest = service_tree.digest({part: path / part for part in service_tree.PARTS})
        except (ServiceError, OSError) as error:
            faults.append(Fault(name, "", "", str(error)))
    warnings = (*manifest.warnings, *_unreadable_python(name, path))
    return Source(name, path, digest, manifest, (*faults, *manifest.faults), warnings)


def together(sources: Sequence[Source]) -> tuple[ServiceRegistry, list[Fault], list[Fault]]:
    """The registry that the services would make, and what is wrong, and odd, with them together."""
    registry = combine([(source.name, source.digest, source.manifest) for source in sources])
    own = {fault for source in sources for fault in source.faults}
    wrong, odd = validate(registry)
    faults = [*(fault for fault in registry.faults if fault not in own), *wrong]
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            faults.append(Fault(name, "", "", f"{count} of the folders are a service of this name; give one another"))
    return registry, faults, odd


def _manifest_text(path: Path) -> tuple[bytes, str]:
    """The file's bytes, or why they cannot be had."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST), ""
    except FileNotFoundError:
        return b"", "is missing; it says which jobs the service has"
    except OSError as error:
        return b"", f"cannot be read: {error.strerror}"


def _name_in(text: bytes) -> str | None:
    """The name that most functions of a settings.json begin with, if that may be a service's."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    jobs = document if isinstance(document, list) else [document]
    said = [
        str(job.get(key)) for job in jobs if isinstance(job, dict) for key in ("worker", "callback") if job.get(key)
    ]
    for name, _ in Counter(dotted.partition(".")[0] for dotted in said).most_common(1):
        try:
            check_service_name(name)
        except ManifestError:
            return None
        return name
    return None


def _faults_of_folder(name: str, path: Path) -> Iterator[Fault]:
    brought: set[str] = set()
    try:
        brought = required_modules((path / "module" / "requirements.txt").read_bytes().decode(errors="replace"))
    except FileNotFoundError:
        pass
    except OSError as error:
        yield Fault(name, "module/requirements.txt", "", f"cannot be read: {error.strerror}")
    try:
        check_service_name(name, brought)
    except ManifestError as error:
        better = nearest_service_name(name, brought)
        yield Fault(name, "", "", f'{error}; "{better}" would do' if better else str(error))
    try:
        service_tree.check_source(path, name)
    except ServiceError as error:
        yield Fault(name, "", "", str(error))
        return
    for part in service_tree.PARTS:
        try:
            service_tree.entries(path / part)
        except (ServiceError, OSError) as error:
            yield Fault(name, f"{part}/", "", str(error))


def _unreadable_python(name: str, path: Path) -> Iterator[Fault]:
    """Files that this Python cannot read; whether that harms a job is for the check of its functions to say."""
    for part in service_tree.PARTS:
        try:
            entries = service_tree.entries(path / part)  # what an install would take: no .venv, nothing from elsewhere
        except (ServiceError, OSError):
            continue  # which is a fault already
        for entry in entries:
            file = path / part / entry.path
            if file.suffix == ".py" and file.is_file() and (fault := syntax(file)):
                yield Fault(name, f"{part}/{entry.path}", "", fault)

"""Installed services on disk: versions side by side, one of them current.

    REGISTRY/.versions/<service>/<digest>/    what callbacks run from          MODULES/.versions/… likewise, for workers
    REGISTRY/<service>                        symlink to the current version    MODULES/<service>
    REGISTRY/.versions/<service>/<digest>.json   where that version came from; disabled.json: the service is disabled

A version is written aside, brought to the disk, made unwritable and renamed into its place before the symlink
in REGISTRY is replaced: at any moment, and after any crash, each service has one whole version. That symlink
decides; the one in MODULES is for people and follows. A plan pins the digests it was made with, so nothing
that runs is ever changed.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from dcm_processor import service_tree
from dcm_processor.environments import requirements_lock
from dcm_processor.errors import ManifestError, ServiceError, UsageError
from dcm_processor.installed import Installed, InstalledService, Rolled
from dcm_processor.manifest import (
    MANIFEST,
    Defaults,
    Fault,
    JobSettings,
    ParsedManifest,
    check_service_name,
)
from dcm_processor.names import did_you_mean
from dcm_processor.registry import ServiceRegistry, combine, validate
from dcm_processor.service_tree import PARTS
from dcm_processor.settings import Settings
from dcm_processor.sources.origin import Origin
from dcm_processor.staged_version import read_manifest, stage
from dcm_processor.version_links import VersionLinks

KEPT = 3
"""Versions kept for rollback beside the current one."""
_ADD_PATIENCE = 600.0  # seconds: whoever adds versions does nothing else, and each is written to the disk


SCRIPT = "script.sh"
"""The file of a module folder that containers run before they take jobs."""
SCRIPT_NOT_RUN = (
    "is not run in local mode: what it would install must be on this machine; "
    "RUN_SCRIPTS=1 in .env.local has the workers run it, as the user they run as"
)


class Store:
    """The services under REGISTRY and MODULES.

    Methods raise ServiceError where files cannot be read or written, and UsageError for what is no service's
    name.
    """

    def __init__(self, registry: Path, modules: Path, defaults: Defaults) -> None:
        self._files = VersionLinks({"registry": registry, "module": modules})
        self._defaults = defaults
        self._parsed: dict[tuple[str, str], ParsedManifest] = {}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The store of an installation."""
        defaults = Defaults(settings.DEFAULT_LEVEL, settings.DEFAULT_PRIORITY, settings.QUEUES)
        return cls(settings.registry, settings.modules, defaults)

    # -- reading

    def load(self) -> ServiceRegistry:
        """All current versions; what is wrong with one is among the faults, and the others are there all the same."""
        with _files("the services cannot be read"):
            current, odd = self._files.current()
            disabled = self._files.disabled()
            self._files.repair(current)
        registry = combine([(name, digest, self._manifest(name, digest)) for name, digest in current.items()])
        faults = [Fault(name, str(self._files.link("registry", name)), "", reason) for name, reason in odd.items()]
        return replace(registry, faults=(*registry.faults, *faults)).without(disabled)

    def services(self) -> list[InstalledService]:
        """Every service by name; one that cannot be used has faults, and where it has no version "" for a digest."""
        registry = self.load()
        with _files("the services cannot be read"):
            current, odd = self._files.current()
            disabled = self._files.disabled()
            return [
                InstalledService(
                    name=name,
                    digest=current.get(name, ""),
                    installed_at=self._files.link("registry", name).lstat().st_mtime,
                    versions=tuple(self._files.versions(name)),
                    jobs=tuple(job.settings for job in registry.of_service(name)),
                    faults=tuple(fault for fault in registry.faults if fault.service == name),
                    origin=self._files.origin(name, current[name]) if name in current else None,
                    disabled_since=disabled.get(name),
                )
                for name in sorted({*current, *odd})
            ]

    def current(self) -> dict[str, str]:
        """The current version of each service, by its name."""
        with _files("the services cannot be read"):
            return self._files.current()[0]

    def kept(self) -> dict[tuple[str, str], tuple[JobSettings, ...]]:
        """The jobs of every version that is here, by service and digest."""
        with _files("the services cannot be read"):
            versions = [(name, digest) for name in self._files.known() for digest in self._files.versions(name)]
        return {version: self._manifest(*version).jobs for version in versions}

    def installed_digest(self, name: str) -> str:
        """The current version of a service.

        Raises ServiceError where it is not installed, with the nearest name that is.
        """
        check_name(name)
        self._files.refuse_foreign(name)
        current, _ = self._files.current()
        if name not in current:
            hint = did_you_mean(name, current) or "; `bash service.sh list` shows those that are"
            raise ServiceError(f"no service {name} is installed{hint}")
        return current[name]

    def registry_folder(self, service: str, digest: str) -> Path:
        """Where the callbacks of a version lie, if it is here."""
        return self._files.version("registry", service, digest)

    def module_folder(self, service: str, digest: str) -> Path:
        """Where the worker functions of a version lie, if it is here."""
        return self._files.version("module", service, digest)

    def script(self, service: str, digest: str) -> Path | None:
        """The script.sh of a version, or None where there is none."""
        path = self.module_folder(service, digest) / SCRIPT
        return path if path.is_file() else None

    def registry_folders(self, digests: Mapping[str, str]) -> dict[str, Path]:
        """The registry folder of each service, in the version given."""
        return {service: self.registry_folder(service, digest) for service, digest in digests.items()}

    # -- changing

    def install(
        self, name: str, source: Path, origin: Origin | None = None, locks: requirements_lock.Locks | None = None
    ) -> Installed:
        """Make a copy of `source` the current version of a service; see `install_all`."""
        return self.install_all({name: source}, origin, locks)[name]

    def install_all(
        self,
        sources: Mapping[str, Path],
        origin: Origin | None = None,
        locks: requirements_lock.Locks | None = None,
    ) -> dict[str, Installed]:
        """Make a copy of each source the current version of the service it is for, unless it already is.

        `origin` is put down as where they come from; `locks` lock what they require. Raises ServiceError where a source
        is no service or files cannot be written, and ManifestError where a name would hide what its requirements.txt
        brings, or with all that is wrong with a settings.json or with all services together as they would be. None has
        changed then.
        """
        for name in sources:
            check_name(name)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_files(f"{_services(sources)} not installed"))
            for name, source in sources.items():
                service_tree.check_source(source, name)
                for part in PARTS:
                    service_tree.entries(source / part)  # before anything of it is read: no symlink leads out
            made = {name: self._lock(name, source, locks) for name, source in sources.items()}  # may take minutes
            stack.enter_context(self._files.locked())
            self._files.clear()
            staged = {name: stack.enter_context(self._files.staging()) for name in sources}
            for name in sources:
                self._files.refuse_foreign(name)
            new = {
                name: stage(name, source, staged[name], made[name], self._defaults) for name, source in sources.items()
            }
            odd = self._check({name: (version.digest, version.manifest) for name, version in new.items()})
            before, _ = self._files.current()
            for name, version in new.items():
                self._files.place(name, version.digest, staged[name])
            for name, version in new.items():
                self._make_current(name, version.digest, origin)
        return {
            name: Installed(
                digest=version.digest,
                before=before.get(name),
                jobs=version.manifest.jobs,
                warnings=(*version.warnings, *(fault for fault in odd if fault.service == name)),
            )
            for name, version in new.items()
        }

    def _lock(self, name: str, source: Path, locks: requirements_lock.Locks | None) -> requirements_lock.Lock | None:
        """The lock of a source; None where none is wanted, as for a source that will be refused."""
        manifest = read_manifest(name, source / "registry", self._defaults)
        if locks is None or manifest.faults:
            return None
        current = self._files.current()[0].get(name)
        before = self.module_folder(name, current) if current is not None else None
        oldest = requirements_lock.oldest_python(job.python_version for job in manifest.jobs)
        return locks.make(source / "module", before, oldest)

    def _make_current(self, name: str, digest: str, origin: Origin | None) -> None:
        if not os.path.lexists(self._files.link("registry", name)):
            self._files.enable(name)  # one that was disabled and then removed begins anew
        if origin is not None:
            self._files.put_origin(name, digest, origin)
        self._files.point(name, digest)

    def rollback(self, name: str, to: str | None = None) -> Rolled:
        """Make an earlier version the current one: the one before, or the one whose digest begins with `to`.

        Raises UsageError where `to` names no kept version or several, ServiceError where there is none, or its files
        are not what they were, and ManifestError where it does not go with the other services as they are now.
        """
        check_name(name)
        with _files(f"service {name} is not rolled back"), self._files.locked():
            self._files.clear()
            current = self.installed_digest(name)
            digest = _chosen(name, current, self._files.versions(name), to)
            places = {part: self._files.version(part, name, digest) for part in PARTS}
            if not all(place.is_dir() for place in places.values()) or service_tree.digest(places) != digest:
                raise ServiceError(
                    f"the files of version {digest[:12]} of {name} are gone or were changed; install it from its source"
                )
            odd = self._check({name: (digest, self._manifest(name, digest))})
            self._files.point(name, digest)
        return Rolled(digest, current, tuple(odd))

    def disable(self, name: str) -> bool:
        """Have a service asked for no new plan, whatever version is current; False where it was disabled already."""
        return self._switch(name, self._files.disable, to="disabled")

    def enable(self, name: str) -> bool:
        """Have a disabled service asked again; False where it was not disabled."""
        return self._switch(name, self._files.enable, to="enabled")

    def _switch(self, name: str, switch: Callable[[str], None], to: str) -> bool:
        check_name(name)
        with _files(f"service {name} is not {to}"), self._files.locked():
            self._files.clear()
            self.installed_digest(name)
            was_disabled = name in self._files.disabled()
            switch(name)
        return was_disabled != (to == "disabled")

    def add(self, name: str, digest: str, source: Path) -> None:
        """Have a version here that another host installed, for plans that pin it; it does not become the current one.

        Raises ServiceError where `source` is not that version, and OSError: elsewhere, or later, it may be possible.
        """
        if missing := [part for part in PARTS if not (source / part).is_dir()]:
            raise ServiceError(f"version {digest} of service {name} came without {' and '.join(missing)}")
        with self._files.locked(seconds=_ADD_PATIENCE), self._files.staging() as staged:
            service_tree.copy({part: source / part for part in PARTS}, staged)
            if service_tree.digest(staged) != digest:
                raise ServiceError(
                    f"what came as version {digest} of service {name} has another content: its files were changed "
                    "where it is installed; install it again from its source"
                )
            self._files.place(name, digest, staged)

    def remove(self, name: str) -> None:
        """Make a service no longer current; its versions stay for plans that pin them, until `collect`.

        Raises ServiceError where it is not installed.
        """
        check_name(name)
        with _files(f"service {name} is not removed"), self._files.locked():
            self._files.clear()
            self.installed_digest(name)
            self._files.unpoint(name)

    def backup(self, name: str, target: Path) -> Path:
        """Write the current version to `target`/`name`, as a source that installs again to the same digest.

        A folder of that name must not be there, unless it holds just that. Returns it; raises ServiceError.
        """
        check_name(name)
        place, target = target.absolute() / name, target.absolute()
        self._files.refuse_inside(target)
        with _files(f"service {name} is not backed up"), self._files.locked():
            digest = self.installed_digest(name)
            if os.path.lexists(place):
                if _digest_of_source(place) == digest:
                    return place
                raise ServiceError(f"{place} is there and holds something else; move it away or name another folder")
            target.mkdir(parents=True, exist_ok=True)
            partial = target / f".{name}.{uuid.uuid4().hex}.partial"
            folders = {part: partial / part for part in PARTS}
            try:
                service_tree.copy({part: self._files.version(part, name, digest) for part in PARTS}, folders)
                if service_tree.digest(folders) != digest:
                    raise ServiceError(f"the installed files of {name} were changed; install it again from its source")
                service_tree.sync_tree(partial)
                partial.rename(place)
                service_tree.sync(target)
            finally:
                if partial.exists():
                    service_tree.remove(partial)
        return place

    def collect(self, pinned: Collection[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """Delete versions nobody needs: not current, not among the three before it, not pinned by a plan.

        Of a removed service only pinned versions stay. Returns (service, digest) of each that was deleted. Raises
        ServiceError at once where the services are being changed: there is always a next time.
        """
        deleted: list[tuple[str, str]] = []
        with _files("old versions are not deleted"), self._files.locked(seconds=0):
            self._files.clear()
            current, odd = self._files.current()
            for name in self._files.known():
                kept = {digest for service, digest in pinned if service == name}
                versions = self._files.versions(name)
                if name in current:
                    others = [digest for digest in versions if digest != current[name]]
                    kept |= {current[name], *others[:KEPT]}
                for digest in versions:
                    if digest not in kept and name not in odd:
                        self._files.discard(name, digest)
                        deleted.append((name, digest))
        return deleted

    # -- settings.json

    def _manifest(self, name: str, digest: str) -> ParsedManifest:
        if (name, digest) not in self._parsed:
            try:
                manifest = read_manifest(name, self.registry_folder(name, digest), self._defaults)
            except OSError as error:
                return ParsedManifest((), (Fault(name, MANIFEST, "", f"cannot be read: {error.strerror}"),))
            self._parsed[name, digest] = manifest
        return self._parsed[name, digest]

    def _check(self, new: Mapping[str, tuple[str, ParsedManifest]]) -> list[Fault]:
        """What is odd with all services together, were these installed, each by its digest and what its manifest says.

        Raises ManifestError for what is wrong with them, or would be with others because of them.
        """
        current, _ = self._files.current()
        others = [(other, known, self._manifest(other, known)) for other, known in current.items() if other not in new]
        newcomers = [(name, digest, manifest) for name, (digest, manifest) in new.items()]
        before, after = combine(others), combine([*others, *newcomers], new)
        wrong, odd = validate(after)
        known_faults = {*before.faults, *validate(before)[0]}
        faults = [fault for _, manifest in new.values() for fault in manifest.faults]
        faults += [fault for fault in [*after.faults, *wrong] if fault not in known_faults]
        if faults:
            lines = dict.fromkeys(str(fault) for fault in faults)
            raise ManifestError("; ".join(lines) if len(lines) == 1 else "\n".join([f"{len(lines)} faults:", *lines]))
        return [fault for fault in odd if fault.service in new]


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be a service's name."""
    try:
        check_service_name(name)
    except ManifestError as error:
        raise UsageError(str(error)) from None


def _services(names: Collection[str]) -> str:
    """`service a is`, `services a, b are`."""
    return f"service {next(iter(names))} is" if len(names) == 1 else f"services {', '.join(names)} are"


def _chosen(name: str, current: str, versions: Sequence[str], to: str | None) -> str:
    """The version to go back to; `versions` as `VersionLinks.versions` has them.

    Raises UsageError, and ServiceError where there is no other version.
    """
    others = [digest for digest in versions if digest != current]
    if not others:
        raise ServiceError(
            f"service {name} has no version but the current one, {current[:12]}: there is none to go back to"
        )
    found = others[:1] if to is None else [digest for digest in versions if digest.startswith(to.lower())]
    kept = ", ".join(digest[:12] for digest in others)
    if len(found) != 1 or (not to and to is not None):
        what = "several versions" if len(found) > 1 else "no version"
        raise UsageError(
            f"{to!r} names {what} of service {name}; beside the current one, {current[:12]}, there are: {kept}"
        )
    if found[0] == current:
        raise UsageError(f"version {current[:12]} is the current one of service {name}; there are: {kept}")
    return found[0]


def _digest_of_source(folder: Path) -> str | None:
    try:
        return service_tree.digest({part: folder / part for part in PARTS})
    except (OSError, ServiceError):
        return None


@contextlib.contextmanager
def _files(what: str) -> Iterator[None]:
    """Have the system's word on files as an error of ours."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ServiceError(f"{what}: {where}{error.strerror or error}") from None

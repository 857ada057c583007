"""Where the versions of services lie, which one is current, and how that is changed in one step.

Every change is made under one lock (flock(2) on REGISTRY/.versions/.lock, gone with its process); what a
killed one left half done is cleared away by the next that installs, removes or collects.
"""

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from dcm_processor import service_tree
from dcm_processor.errors import ServiceError
from dcm_processor.service_tree import PARTS
from dcm_processor.sources.origin import Origin

_VERSIONS = ".versions"
_LEFTOVERS = (".staging-", ".trash-", ".link-", ".note-")
_DISABLED = "disabled"
_DIGEST = re.compile(r"[0-9a-f]{32}")
_SERVICE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FOREIGN = (
    "was put there by hand and is not used: make it the registry/ (or module/) folder of a service source, "
    "install that with `bash service.sh install NAME -p SOURCE`, and move this one away"
)
LOCK_SECONDS = 60


class VersionLinks:
    """The folders and symlinks of all services; `roots` are REGISTRY and MODULES by the names of a service's parts.

    Methods raise OSError where they say nothing else.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self._roots = roots

    # -- reading

    def link(self, part: str, name: str) -> Path:
        """The symlink to the current version."""
        return self._roots[part] / name

    def version(self, part: str, name: str, digest: str) -> Path:
        """The folder of a version, whether or not it is there.

        Raises ServiceError for what can be no version: paths are made of these.
        """
        if not _SERVICE.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise ServiceError(f"{name!r}, {digest!r} is no version of a service")
        return self._roots[part] / _VERSIONS / name / digest

    def current(self) -> tuple[dict[str, str], dict[str, str]]:
        """The current digest of each service, and what is wrong with those that have something wrong."""
        current: dict[str, str] = {}
        odd: dict[str, str] = {}
        for name in _names(self._roots["registry"]):
            digest = self._pointed("registry", name)
            if digest is None:
                if self.link("registry", name).is_dir():
                    odd[name] = _FOREIGN
            elif not self.version("registry", name, digest).is_dir():
                odd[name] = f"the files of version {digest} are gone; install it again"
            else:
                current[name] = digest
                if not self.version("module", name, digest).is_dir():
                    odd[name] = f"the module files of version {digest} are gone; install it again"
        return current, odd

    def known(self) -> list[str]:
        """The services of which there are versions."""
        return sorted({name for root in self._roots.values() for name in _names(root / _VERSIONS)})

    def versions(self, name: str) -> list[str]:
        """The versions of a service that are here, the one made current last first, those that never were last."""
        ages: dict[str, float] = {}
        for root in self._roots.values():
            folder = root / _VERSIONS / name
            for digest in filter(_DIGEST.fullmatch, _names(folder)):
                ages[digest] = max(ages.get(digest, 0), (folder / digest).stat().st_mtime)
        return sorted(ages, key=lambda digest: (-ages[digest], digest))

    def origin(self, name: str, digest: str) -> Origin | None:
        """Where a version came from, if that was put down."""
        try:
            return Origin.from_json(self._note(name, digest).read_bytes())
        except FileNotFoundError:
            return None

    def disabled(self) -> dict[str, float]:
        """The services that are disabled, and since when, in seconds since the epoch."""
        found = {}
        for name in _names(self._roots["registry"] / _VERSIONS):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[name] = self._note(name, _DISABLED).stat().st_mtime
        return found

    def _note(self, name: str, about: str) -> Path:
        """A small file about a version, or a service, beside its versions."""
        return self._roots["registry"] / _VERSIONS / name / f"{about}.json"

    def refuse_foreign(self, name: str) -> None:
        """Raise ServiceError where something that is not ours lies in the place of the service's symlink."""
        for part in PARTS:
            if os.path.lexists(self.link(part, name)) and self._pointed(part, name) is None:
                raise ServiceError(f"{self.link(part, name)} {_FOREIGN}")

    def refuse_inside(self, folder: Path) -> None:
        """Raise ServiceError for a folder inside of REGISTRY or MODULES."""
        for root in self._roots.values():
            if folder.resolve().is_relative_to(root.resolve()):
                raise ServiceError(
                    f"{folder} is inside of {root}, where services are installed; name a folder elsewhere"
                )

    def _pointed(self, part: str, name: str) -> str | None:
        """The digest a symlink of ours leads to; None where there is no such symlink."""
        try:
            parts = Path(os.readlink(self.link(part, name))).parts  # noqa: PTH115 - as text
        except OSError:
            return None
        ours = len(parts) == 3 and parts[:2] == (_VERSIONS, name) and _DIGEST.fullmatch(parts[2])
        return parts[2] if ours else None

    # -- changing, under the lock

    @contextlib.contextmanager
    def locked(self, seconds: float | None = None) -> Iterator[None]:
        """Hold the lock.

        Raises ServiceError where another process holds it for so long.
        """
        for root in self._roots.values():
            (root / _VERSIONS).mkdir(parents=True, exist_ok=True)
            self._hand_over(root / _VERSIONS)
        path = self._roots["registry"] / _VERSIONS / ".lock"
        lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)  # reading is all that flock(2) needs
        try:
            self._hand_over(path)
            give_up = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= give_up:
                        raise ServiceError(
                            "another process is changing the services; try again when it is done"
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(lock)

    def clear(self) -> None:
        """Clear away what a killed process left half done."""
        for root in self._roots.values():
            for path in (root / _VERSIONS).iterdir():
                if path.name.startswith(_LEFTOVERS):
                    path.unlink() if path.is_symlink() or path.is_file() else service_tree.remove(path)

    def _hand_over(self, path: Path) -> None:
        """Have what root makes belong to the owner of REGISTRY, as whom the platform runs."""
        if os.geteuid() == 0:
            owner = self._roots["registry"].stat()
            with contextlib.suppress(PermissionError):  # a root of a container, without that right
                os.lchown(path, owner.st_uid, owner.st_gid)

    @contextlib.contextmanager
    def staging(self) -> Iterator[dict[str, Path]]:
        """A place for each part of a version to be made in, beside the place where it will stand."""
        name = f".staging-{uuid.uuid4().hex}"
        staged = {part: root / _VERSIONS / name for part, root in self._roots.items()}
        try:
            yield staged
        finally:
            for folder in staged.values():
                if folder.exists():
                    service_tree.remove(folder)

    def place(self, name: str, digest: str, staged: Mapping[str, Path]) -> None:
        """Have a version in its place, and on the disk; one that is there and whole stays."""
        places = {part: self.version(part, name, digest) for part in PARTS}
        if all(place.is_dir() for place in places.values()) and service_tree.digest(places) == digest:
            return
        for part, place in places.items():
            service_tree.freeze(staged[part])
            for path in (staged[part], *staged[part].rglob("*")):
                self._hand_over(path)
            service_tree.sync_tree(staged[part])
            place.parent.mkdir(exist_ok=True)
            self._hand_over(place.parent)
            current_at = 0.0  # never yet; `versions` goes by it
            if place.exists():
                current_at = place.stat().st_mtime
                self._trash(part, place)
            os.utime(staged[part], (current_at, current_at))
            staged[part].rename(place)
            place.chmod(0o755)
            service_tree.sync(place.parent)
            service_tree.sync(place.parent.parent)

    def point(self, name: str, digest: str) -> None:
        """Make a version the current one."""
        for part in PARTS:
            if self._pointed(part, name) != digest:
                fresh = self._roots[part] / _VERSIONS / f".link-{uuid.uuid4().hex}"
                fresh.symlink_to(Path(_VERSIONS, name, digest))
                self._hand_over(fresh)
                fresh.rename(self.link(part, name))
                os.utime(self.version(part, name, digest))  # `versions` goes by it
                service_tree.sync(self._roots[part])

    def put_origin(self, name: str, digest: str, origin: Origin) -> None:
        """Put down where a version came from."""
        self._put_note(self._note(name, digest), origin.to_json())

    def disable(self, name: str) -> None:
        """Put down that a service is disabled, from now on unless it was already."""
        if not self._note(name, _DISABLED).exists():
            self._put_note(self._note(name, _DISABLED), "{}\n")

    def enable(self, name: str) -> None:
        """Forget that a service was disabled."""
        note = self._note(name, _DISABLED)
        if note.exists():
            note.unlink()
            service_tree.sync(note.parent)

    def _put_note(self, note: Path, text: str) -> None:
        """Have a small file there, whole and on the disk, or as it was."""
        note.parent.mkdir(exist_ok=True)
        fresh = note.parent.parent / f".note-{uuid.uuid4().hex}"
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o644)
        self._hand_over(fresh)
        service_tree.sync(fresh)
        fresh.rename(note)
        service_tree.sync(note.parent)

    def unpoint(self, name: str) -> None:
        """Have no version current."""
        for part in PARTS:
            self.link(part, name).unlink(missing_ok=True)
            service_tree.sync(self._roots[part])

    def repair(self, current: Mapping[str, str]) -> None:
        """Have MODULES follow where a change was cut short; never waits, and a reader need not be allowed to."""
        names = {*current, *_names(self._roots["module"])}
        if all(self._pointed("module", name) == current.get(name) for name in names):
            return
        with contextlib.suppress(OSError, ServiceError), self.locked(seconds=0):
            now, _ = self.current()
            for name in {*now, *_names(self._roots["module"])}:
                if self._pointed("module", name) is None and os.path.lexists(self.link("module", name)):
                    continue
                if name in now:
                    self.point(name, now[name])
                else:
                    self.link("module", name).unlink()

    def discard(self, name: str, digest: str) -> None:
        """Delete a version, and what was put down about it."""
        for part in PARTS:
            place = self.version(part, name, digest)
            if place.exists():
                self._trash(part, place)
        self._note(name, digest).unlink(missing_ok=True)

    def _trash(self, part: str, place: Path) -> None:
        """Delete a folder that must at no moment be there in part."""
        trash = self._roots[part] / _VERSIONS / f".trash-{uuid.uuid4().hex}"
        place.rename(trash)
        service_tree.remove(trash)


def _names(folder: Path) -> list[str]:
    """What is in a folder, but what begins with a dot; nothing if it is not there."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return []

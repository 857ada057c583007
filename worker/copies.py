"""The copies of studies that this host has: who uses one, how much room they take, which go when there is too little.

    DATA/dicom/.copies/<studyId>.use    held (flock, shared) by each attempt that uses the copy, and by its reaper; says
                                        for which plan it was last fetched and how large it is; its age is the last use
    DATA/dicom/.copies/room.lock        held by the one process of the host that counts, and takes, room
    DATA/dicom/.copies/gone/            copies on their way out: renamed to here, then deleted
    DATA/dicom/.copies/full             there while fetches find no room: how many bytes there was no room for

A copy goes as a whole, by a rename, while nobody uses or fetches it; whoever needs it later fetches it again. So a
wrong guess about who needs it costs time and nothing else, and who dies here leaves nothing that looks whole.
"""

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dcm_processor import disk, service_tree
from dcm_processor.errors import DataFullError, PermanentError, TransportUnavailableError
from dcm_processor.logging import get_logger
from dcm_processor.orthanc import is_orthanc_id

log = get_logger()

IDLE = 3600.0
"""Seconds without use after which even a copy that an unfinished plan needs may go, should nothing else make room.

Else hosts that serve different queues could wait for each other for ever, each with the copies that the other's jobs
wait for.
"""

Unfinished = Callable[[Collection[str]], Set[str]]
"""Ids of plans -> those of them that have not ended. Raises TransportUnavailableError where that cannot be known."""


@dataclass(frozen=True)
class Limits:
    """What copies may take.

    `budget`: bytes that they may have together (None: any number). `min_free`: bytes that stay free on their disk
    (None: what `disk.must_stay_free` says).
    """

    budget: int | None = None
    min_free: int | None = 0


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Standing:
    """A copy that nobody uses now: its size in bytes, when it was last used, whether an unfinished plan needs it."""

    study_id: str
    size: int
    used_at: float
    needed: bool


def choose(copies: Sequence[Standing], short: int, now: float) -> list[Standing]:
    """Those that go so that `short` more bytes are free: longest unused first, none where all would not do. Pure."""
    may_go = [copy for copy in copies if not copy.needed or abs(now - copy.used_at) >= IDLE]
    going: list[Standing] = []
    for copy in sorted(may_go, key=lambda copy: (copy.needed, copy.used_at, copy.study_id)):
        if short <= 0:
            break
        going.append(copy)
        short -= copy.size
    return going if short <= 0 else []


@contextmanager
def using(data: Path, study_id: str) -> Iterator[int]:
    """Inside, the study's copy stays; so it does as long as anybody has a copy of the descriptor.

    Raises DataFullError where there is no room for even that to be noted, PermanentError for what cannot be a study,
    and OSError.
    """
    if not is_orthanc_id(study_id):
        raise PermanentError("the plan names a study that cannot be one of Orthanc's")
    beside = data / "dicom" / ".copies"
    with full_disk(data):
        beside.mkdir(parents=True, exist_ok=True)
        held = lock(beside / f"{study_id}.use", shared=True)
    assert held is not None
    try:
        os.utime(held)
        yield held
    finally:
        with suppress(OSError):
            os.utime(held)
        os.close(held)


@contextmanager
def full_disk(data: Path) -> Iterator[None]:
    """Turn the system's word for a full disk, or a used-up quota, into DataFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataFullError(f"{_no_room(data)}{disk.free(data)} bytes are free; make room there") from error


def lock(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """A descriptor that holds (flock) a file, made where it is missing; None: others hold it, and we do not wait.

    Who holds it alone may delete it: whoever waited for it then looks again.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(held, how)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(held), path.stat()):
                    return held
        except BlockingIOError:
            os.close(held)
            return None
        except BaseException:
            os.close(held)
            raise
        os.close(held)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file alone, waited for; the kernel frees the lock of a process that dies."""
    held = lock(path)
    assert held is not None
    try:
        yield
    finally:
        os.close(held)


@dataclass(frozen=True)
class _Note:
    """What stands in a `.use`: `size` is what the copy takes once the `coming` bytes of a fetch have come."""

    plan_id: str
    size: int
    coming: int

    @classmethod
    def load(cls, path: Path) -> "_Note | None":
        """None where there is none that can be read."""
        try:
            found = json.loads(path.read_bytes())
            return cls(str(found["plan_id"]), int(found["size"]), int(found["coming"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write it in place, since the file itself is held; over what is there, for which a full disk has room."""
        text = json.dumps(asdict(self)).encode()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
        finally:
            os.close(fd)


class Copies:
    """All copies of this host, as a fetch needs them."""

    def __init__(self, data: Path, limits: Limits, unfinished: Unfinished) -> None:
        self._data = data
        self._limits = limits
        self._unfinished = unfinished
        self._dicom = data / "dicom"
        self._beside = self._dicom / ".copies"
        self._gone = self._beside / "gone"

    @contextmanager
    def room(self, study_id: str, plan_id: str, coming: int, *, changed: bool) -> Iterator[None]:
        """Room for so many bytes more of a study, which come inside; the caller holds the copy's lock.

        `changed`: something of the copy was deleted, so that it has to be measured. Raises DataFullError.
        """
        use = self._file(study_id, "use")
        note = _Note.load(use)
        if changed or note is None or note.coming:
            note = _Note("", self._measure(study_id), 0)
        whole = _Note(plan_id, note.size + coming, 0)
        if coming:
            self._take_room(study_id, _Note(plan_id, note.size + coming, coming))
            yield
            whole.save(use)
            return
        if whole != note:
            with suppress(OSError):  # a full disk is no matter where nothing is to come
                whole.save(use)
        yield

    def _take_room(self, study_id: str, note: _Note) -> None:
        self._clear(wait=False)  # what a process left that died while it made room
        while True:
            with locked(self._beside / "room.lock"):
                found = self._look(study_id)
                short, why = self._short(found, note)
                if short <= 0:
                    note.save(self._file(study_id, "use"))
                    self._tell(note.coming, None)
                    return
                going = choose(self._standing(found), short, time.time())
                aside = [copy.study_id for copy in going if self._put_aside(copy.study_id)]
            if aside:
                log.info("copies of studies go, to make room", needed=note.coming, studies=aside)
            if not self._clear(wait=True) and not aside:
                with locked(self._beside / "room.lock"):
                    self._tell(note.coming, why)
                raise DataFullError(why)

    def _short(self, found: "Sequence[_Found]", note: _Note) -> tuple[int, str]:
        """How many bytes there are too few, and that in words."""
        budget, least = self._limits.budget, disk.must_stay_free(self._data, self._limits.min_free)
        free = disk.free(self._data)
        need = f"{note.coming} bytes are needed, "
        start = _no_room(self._data)
        lacking = note.coming + sum(copy.coming for copy in found) + least - free
        text = f"{start}{need}{free} bytes are free"
        text += f", of which {least} are to stay so (MIN_FREE); make room there" if least else "; make room there"
        if budget is None:
            return lacking, text
        others = sum(copy.size for copy in found)
        over = others + note.size - budget
        if over <= 0 or lacking > over:
            return max(lacking, over), text
        if note.size > budget:
            return over, f"{start}it takes {note.size} bytes, more than DATA_BUDGET ({budget}); raise DATA_BUDGET"
        taken = f"{others} of the {budget} of DATA_BUDGET are taken by studies that jobs still need"
        return over, f"{start}{need}{taken}; raise DATA_BUDGET, or wait for them"

    def _look(self, but: str) -> "list[_Found]":
        """The copies of all other studies."""
        with os.scandir(self._dicom) as entries:
            names = [e.name for e in entries if is_orthanc_id(e.name) and e.is_dir(follow_symlinks=False)]
        return [self._found(name) for name in names if name != but]

    def _found(self, study_id: str) -> "_Found":
        use = self._file(study_id, "use")
        note = _Note.load(use)
        fetched = _is_held(self._file(study_id, "lock"))
        try:
            used_at = use.stat().st_mtime
        except FileNotFoundError:
            used_at = (self._dicom / study_id).stat().st_mtime
        size, coming = (0, 0) if note is None else (note.size, note.coming)
        if note is None or coming:
            there = self._measure(study_id)
            if fetched:
                size, coming = max(size, there), max(size - there, 0)
            else:
                size, coming = there, 0
                with suppress(OSError):  # a full disk: it is measured again
                    _Note(note.plan_id if note else "", size, 0).save(use)
                    os.utime(use, (used_at, used_at))
        return _Found(study_id, note.plan_id if note else "", size, coming, used_at, fetched or _is_held(use))

    def _standing(self, found: "Sequence[_Found]") -> list[Standing]:
        unused = [copy for copy in found if not copy.used]
        plans = {copy.plan_id for copy in unused if copy.plan_id}
        try:
            needed = self._unfinished(plans) if plans else set()
        except TransportUnavailableError:
            needed = plans
        return [Standing(copy.study_id, copy.size, copy.used_at, copy.plan_id in needed) for copy in unused]

    def _put_aside(self, study_id: str) -> bool:
        """Rename a copy out of the way, unless somebody uses or fetches it; what it was is forgotten first."""
        held: list[int] = []
        try:
            for kind in ("lock", "use"):  # as a fetch takes them
                if (one := lock(self._file(study_id, kind), wait=False)) is None:
                    return False
                held.append(one)
            self._gone.mkdir(exist_ok=True)
            self._file(study_id, "json").unlink(missing_ok=True)
            for path in (self._dicom / study_id, self._file(study_id, "part")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)  # a job may have taken the right to rename it
                    path.rename(self._gone / f"{path.name}-{secrets.token_hex(4)}")
            for kind in ("use", "lock"):
                self._file(study_id, kind).unlink(missing_ok=True)
        except OSError as error:
            log.warning("a copy of a study cannot go", studyId=study_id, why=error.strerror)
            return False
        finally:
            for one in held:
                os.close(one)
        return True

    def _clear(self, *, wait: bool) -> bool:
        """Delete what was put aside, by whomever; True where there is less of it now.

        With `wait`, what another process is deleting is waited for.
        """
        before = self._aside()
        if not before or (held := lock(self._beside / "gone.lock", wait=wait)) is None:
            return False
        try:
            for name in self._aside():
                try:
                    service_tree.remove(self._gone / name)
                except OSError as error:
                    log.warning("a copy of a study cannot be deleted", path=str(self._gone / name), why=error.strerror)
        finally:
            os.close(held)
        return bool(before - self._aside())

    def _aside(self) -> set[str]:
        try:
            return set(os.listdir(self._gone))  # noqa: PTH208 - names
        except FileNotFoundError:
            return set()

    def _tell(self, coming: int, why: str | None) -> None:
        """Say once that fetches find no room (`why`), and once that they do again, whichever process meets it."""
        mark = self._beside / "full"
        with suppress(OSError):
            try:
                least = int(mark.read_text())
            except (FileNotFoundError, ValueError):
                least = None
            if why is not None and (least is None or coming < least):
                log.error("studies are not fetched until there is room; their jobs wait", why=why)
                mark.write_text(str(coming))
            elif why is None and least is not None and coming >= least:
                log.info("there is room for studies again")
                mark.unlink()

    def _measure(self, study_id: str) -> int:
        """Bytes of the files of a copy."""
        return sum(_size(path) for path in (self._dicom / study_id, self._file(study_id, "part")))

    def _file(self, study_id: str, kind: str) -> Path:
        return self._beside / f"{study_id}.{kind}"


@dataclass(frozen=True)
class _Found:
    """A copy of another study: `coming` bytes of its size are still to come; `used`: it cannot go now."""

    study_id: str
    plan_id: str
    size: int
    coming: int
    used_at: float
    used: bool


def _no_room(data: Path) -> str:
    return f"DATA ({data}) has no room for the study's files: "


def _is_held(path: Path) -> bool:
    """Whether anybody holds the file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _size(folder: Path) -> int:
    """Bytes of the files below; what goes meanwhile does not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - a million of them
    return total

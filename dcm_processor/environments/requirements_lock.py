"""A lock of a service's requirements, made when it is installed: every host then gets the same versions.

    module/requirements.lock     what uv resolved requirements.txt to, with hashes, for all platforms; the first line is
                                 ours and has the digest (`stamp`) of what was resolved

It lies in the version like any other file of the service. One whose stamp is still right is used again: that of the
source (a backup brings one), then that of the current version. One without our first line is its author's own, and is
taken as it is. Where none can be made the service is installed without, and a warning says why.
"""

import codecs
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcm_processor import service_tree
from dcm_processor.environments import build_network, uv_program
from dcm_processor.errors import ServiceError
from dcm_processor.settings import Settings

REQUIREMENTS = "requirements.txt"
LOCK = "requirements.lock"
LIMIT = 300.0
"""Seconds that uv may take; what has to be compiled only to learn what it requires, may take longer than that."""
_TAIL = 16_000
_PROGRESS_SECONDS = 0.5
_HEAD = re.compile(rb"\A# locked by dcm-processor at install: ([0-9a-f]{32})\n")
# A requirement that names a file beside requirements.txt: its content matters as well.
_OPTIONS_WITH_FILE = ("-r", "-c", "-e", "--requirement", "--constraint", "--editable")
_WHEELS = ("-f", "--find-links")
_LOCAL_WHEELS = re.compile(r"(-f|--find-links)[ =]+(?!https?:)")
_ARCHIVE = re.compile(r"\.(whl|zip|tgz|tar)\b")
_INDEX = re.compile(r"^\s*(--index-url|-i|--extra-index-url|--find-links|-f|--no-index)\b.*$", re.MULTILINE)
_OWN_INDEX = re.compile(r"^\s*(--index-url|-i)[ =]", re.MULTILINE)
_INCLUDED = re.compile(r"^\s*(?:-r|--requirement)[ =]*(\S+)", re.MULTILINE)
_MOST_INCLUDED = 20


@dataclass(frozen=True)
class Lock:
    """What `Locks.make` came to: the text to write, None where nothing is to be written; and why there is no lock."""

    python_version: str
    stamp: str
    text: bytes | None = None
    warning: str = ""


@dataclass(frozen=True)
class Locks:
    """The making of locks; `environ` is this process's, `upgrade` takes none that is there.

    `progress` is told from time to time, while uv works, what it does.
    """

    settings: Settings
    environ: Mapping[str, str]
    upgrade: bool = False
    progress: Callable[[str], object] = lambda _text: None

    def make(self, module: Path, before: Path | None, python_version: str) -> Lock:
        """The lock for the module folder of a source; `before` is that of the current version, if there is one.

        `python_version` is the oldest Python that it must do for. Raises OSError where files cannot be read.
        """
        requirements = module / REQUIREMENTS
        stamp = stamp_of(module, python_version)
        if not requirements.is_file() or not _has_any(requirements.read_bytes()):
            return Lock(python_version, stamp)
        own = _read(module / LOCK)
        if own is not None and (_stamp_in(own) is None or (_stamp_in(own) == stamp and not self.upgrade)):
            return Lock(python_version, stamp, own)
        kept = None if before is None or self.upgrade else _read(before / LOCK)
        if kept is not None and _stamp_in(kept) == stamp:
            return Lock(python_version, stamp, kept)
        try:
            build_network.make_ca_bundle(self.settings)
            resolved = self._resolved(module, python_version)
        except ServiceError as error:
            return Lock(python_version, stamp, warning=f"its versions are not locked, hosts may differ: {error}")
        head = f"# locked by dcm-processor at install: {stamp}\n"
        return Lock(
            python_version,
            stamp,
            head.encode() + "".join(f"{line}\n" for line in _index_lines(module)).encode() + resolved,
        )

    def _resolved(self, module: Path, python_version: str) -> bytes:
        """For all platforms; for this one alone where that cannot be, as with a folder of this platform's wheels."""
        try:
            return self._compile(module, python_version, "--universal")
        except _UnsolvableError:
            return self._compile(module, python_version)

    def _compile(self, module: Path, python_version: str, *more: str) -> bytes:
        """What uv resolves. Raises ServiceError that says why it does not."""
        arguments = ["--generate-hashes", "--emit-build-options", "--no-header", "--no-annotate"]
        arguments += ["--python-version", python_version, *more]
        wheels = self.settings.WHEEL_DIR
        if wheels is not None:
            arguments += ["--find-links", str(wheels)]
        text = text_of((module / REQUIREMENTS).read_bytes())
        if wheels is None or self.settings.PIP_INDEX_URL:
            return self._uv(module, text, arguments)
        try:
            return self._uv(module, text, [*arguments, "--no-index"])
        except _UnsolvableError:  # the folder may hold only some of it
            return self._uv(module, text, arguments)

    def _uv(self, module: Path, text: str, arguments: list[str]) -> bytes:
        env = build_network.of_build(self.settings, self.environ, site_index=not names_index(text))
        with tempfile.TemporaryDirectory(prefix="dcm-processor-") as folder:
            said, made = Path(folder, "said"), Path(folder, "made")
            if names_files(text.encode()):  # building what is there to learn what it requires leaves files beside it
                service_tree.copy_folder(module, Path(folder, "module"))
                module = Path(folder, "module")
            command = [uv_program.binary(), "pip", "compile", REQUIREMENTS, "--quiet", *arguments, "-o", str(made)]
            with said.open("wb") as log:
                status = _run(command, env, module, log.fileno(), lambda seconds: self._tell(seconds, said))
            tail = said.read_bytes()[-_TAIL:].decode("utf-8", "replace")
            if status is None:
                last = (tail.splitlines() or ["it said nothing"])[-1].strip()
                raise ServiceError(f"uv did not end within {LIMIT:.0f} s ({last})")
            if status != 0:
                failure = uv_program.failure(status, tail)
                raise ServiceError(failure.message) if failure.passing else _UnsolvableError(failure.message)
            return made.read_bytes()

    def _tell(self, seconds: float, said: Path) -> None:
        last = (said.read_bytes()[-_TAIL:].decode("utf-8", "replace").splitlines() or [""])[-1].strip()
        self.progress(f"locking the versions of its requirements, {seconds:.0f} s" + (f": {last}" if last else ""))


class _UnsolvableError(ServiceError):
    """uv read all there is and found no way; elsewhere, or for fewer platforms, there may be one."""


def oldest_python(versions: Iterable[str | None]) -> str:
    """The oldest of the Pythons that jobs ask for (`pythonVersion`; None: the one that runs us)."""
    found = {version or f"{sys.version_info.major}.{sys.version_info.minor}" for version in versions} or {"3"}
    return min(found, key=lambda version: [int(number) for number in version.split(".")])


def put(module: Path, lock: Lock) -> None:
    """Write a lock into the copy of the source that is to become a version.

    Raises ServiceError where the copy is not what was locked, and OSError.
    """
    if stamp_of(module, lock.python_version) != lock.stamp:
        raise ServiceError("its requirements changed while it was installed; install it again")
    place = module / LOCK
    if lock.text is not None or (place.is_file() and _stamp_in(place.read_bytes()) is not None):
        place.unlink(missing_ok=True)
    if lock.text is not None:
        place.write_bytes(lock.text)


def stamp_of(module: Path, python_version: str) -> str:
    """32 hexadecimal digits: what a lock is made from; all files of the module where the requirements name some.

    Raises OSError where they cannot be read, and ServiceError for files that no service may have.
    """
    whole = hashlib.sha256(f"1 {python_version}\n".encode())
    text = _read(module / REQUIREMENTS) or b""
    whole.update(text.replace(b"\r\n", b"\n"))
    if names_files(text):
        for entry in service_tree.entries(module):
            if entry.target is None and str(entry.path) != LOCK:
                whole.update(b"\0" + os.fsencode(str(entry.path)) + b"\0")
                with (module / entry.path).open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


def body_of(text: bytes) -> bytes:
    """Requirements without our first line and with newlines alone: the same ones are the same environment."""
    return _HEAD.sub(b"", text.replace(b"\r\n", b"\n"), count=1)


def names_files(text: bytes) -> bool:
    """Whether requirements name files of the service."""
    return any(map(_names_file, text_of(text).splitlines()))


def _names_file(line: str) -> bool:
    words = line.strip()
    if words.startswith(_OPTIONS_WITH_FILE):
        return True
    if words.startswith(_WHEELS):
        return _LOCAL_WHEELS.match(words) is not None
    if words.startswith(("#", "-")):
        return False
    where = words.partition(" #")[0]
    if "://" in where or "file:" in where:
        return "file:" in where
    return where.startswith(".") or "/" in where or _ARCHIVE.search(where) is not None


def text_of(requirements: bytes) -> str:
    """A file of requirements as uv reads it: with the byte order marks that editors and shells of Windows write."""
    utf_16 = requirements.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return requirements.decode("utf-16" if utf_16 else "utf-8-sig", "replace")


def names_index(text: str) -> bool:
    """Whether requirements name an index to take in PyPI's place, which then is taken before PIP_INDEX_URL."""
    return _OWN_INDEX.search(text) is not None


def _index_lines(module: Path) -> list[str]:
    """The lines that say where packages are, also those of files that requirements.txt includes."""
    lines: dict[str, None] = {}
    files, seen = [module / REQUIREMENTS], set[Path]()
    while files and len(seen) < _MOST_INCLUDED:
        file = files.pop(0)
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        text = text_of(file.read_bytes())
        lines |= dict.fromkeys(match[0].strip() for match in _INDEX.finditer(text))
        files += [file.parent / match[1] for match in _INCLUDED.finditer(text)]
    return list(lines)


def _has_any(text: bytes) -> bool:
    return any(line.strip() and not line.strip().startswith(b"#") for line in text.splitlines())


def _stamp_in(text: bytes) -> str | None:
    found = _HEAD.match(text)
    return found[1].decode() if found else None


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _run(
    command: list[str], env: Mapping[str, str], cwd: Path, log: int, tell: Callable[[float], object]
) -> int | None:
    """The exit status; None where it was ended after LIMIT, with all that it started."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        while (seconds := time.monotonic() - began) < LIMIT:
            try:
                return process.wait(_PROGRESS_SECONDS)
            except subprocess.TimeoutExpired:
                tell(seconds)
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

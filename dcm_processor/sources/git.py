"""A git repository as files: one commit of it, fetched by the program `git`, with nothing of it run.

What comes is fetched into a bare repository and read from there object by object. So there is no working tree, no hook,
no filter, no submodule and no symlink to be tricked by; what is written is bounded in number and size before it is.
Nobody is asked for a password: git's own ways (a credential helper, an ssh agent or key) answer, or the fetch fails.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from dcm_processor import process
from dcm_processor.archives.archive import VERSION
from dcm_processor.archives.new_folder import NewFolder, checked, filling
from dcm_processor.errors import SourceError
from dcm_processor.sources import git_words
from dcm_processor.sources.source import Repository

SECONDS = 600.0
"""How long all that is done with one repository may take."""
SIZE = 4 * 1024**3
"""Bytes of history and files, compressed, that are fetched at most."""

_MEMORY = 2 * 1024**3
_TAIL = 16_000
_CHUNK = 256 * 1024
_LISTING = 64 * 1024**2
_LINK_BYTES = 4096
_KEPT_VARIABLES = ("PATH", "HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE")
# Where credential helpers find what they keep: a cache, a keyring, a store that gpg opens.
_OF_HELPERS = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.askPass=",
    "core.bigFileThreshold=16m",  # larger ones are streamed, not held in memory
    "credential.interactive=false",
    "fetch.fsckObjects=true",
    "fetch.unpackLimit=1",  # one file, so that its size can be limited
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "pack.threads=1",
)
_LFS = b"version https://git-lfs.github.com/spec/v1\n"
_HEX = re.compile(r"[0-9a-f]{4,64}")
_ENTRY = re.compile(rb"([0-7]{6}) (blob|commit) ([0-9a-f]{40,64}) +([0-9]+|-)\t(.+)", re.DOTALL)
_TOO_MUCH = (
    f"it holds more than may be fetched ({SIZE // 1024**3} GB compressed; {VERSION}), or disk or memory are full; "
    "#subdirectory=PATH takes a part of the files, and data belongs elsewhere"
)
_SUBMODULE = "it is a submodule, which is not fetched; have its files in the repository itself"
_IN_LFS = "it is kept in git LFS, which is not fetched; have the file itself in the repository"


@dataclass(frozen=True)
class Checkout:
    """What came of a repository: the commit, and of its files those that did not come, with why."""

    commit: str
    missing: Mapping[PurePosixPath, str]


@dataclass(frozen=True)
class _Entry:
    path: PurePosixPath
    kind: bytes  # the mode, as git has it
    object_name: bytes
    size: int


def check_out(repository: Repository, place: Path, target: Path, environ: Mapping[str, str]) -> Checkout:
    """Make the folder `target` of a repository's subdirectory, or of all of it; `place` is an empty folder to work in.

    `environ`: this process's, with what the network needs. Raises SourceError where the repository cannot be had or
    holds too much, ArchiveError where it holds what it must not, and OSError.
    """
    git = _Git(repository, place, environ)
    git.run("init", "--quiet", "--bare", "--template=", str(git.store))
    commit = git.fetch()
    tree = f"{commit}:{repository.subdirectory or ''}"
    if git.run("cat-file", "-t", tree, failing=f"{repository} has no folder {repository.subdirectory}") != b"tree":
        raise SourceError(f"{repository}: {repository.subdirectory} is no folder there")
    entries = git.listing(tree)
    missing = {}
    with filling(target) as folder, git.objects() as (ask, answers):
        for entry in entries:
            if entry.kind == b"160000":
                missing[entry.path] = _SUBMODULE
                continue
            ask.write(entry.object_name + b"\n")
            ask.flush()
            if why := _write(entry, answers, folder):
                missing[entry.path] = why
        folder.make_links()
    return Checkout(commit, missing)


def _write(entry: _Entry, answers: IO[bytes], folder: NewFolder) -> str | None:
    """Make a file or symlink of the next object; returns why it is not what it should be, if it is not."""
    answer = answers.readline(200).split()
    if answer != [entry.object_name, b"blob", str(entry.size).encode()]:
        raise SourceError(f"the repository lacks a part of {entry.path}; try again, and have its owner look at it")
    folder.folders(entry.path.parent)
    why = None
    if entry.kind == b"120000":
        target = _exactly(answers, entry.size)
        folder.link(entry.path, target.decode("utf-8", "surrogateescape"))
    else:
        head = _exactly(answers, min(entry.size, len(_LFS)))
        why = _IN_LFS if head == _LFS else None
        folder.file(entry.path, _pieces(head, answers, entry.size - len(head)), executable=entry.kind == b"100755")
    _exactly(answers, 1)  # the line's end
    return why


def _pieces(head: bytes, answers: IO[bytes], left: int) -> Iterator[bytes]:
    yield head
    while left:
        piece = _exactly(answers, min(left, _CHUNK))
        left -= len(piece)
        yield piece


def _exactly(answers: IO[bytes], size: int) -> bytes:
    piece = answers.read(size)
    if len(piece) != size:
        raise SourceError("git ended before all of the repository was read; try again")
    return piece


class _Git:
    """The program, on one repository."""

    def __init__(self, repository: Repository, place: Path, environ: Mapping[str, str]) -> None:
        program = shutil.which("git", path=environ.get("PATH"))
        if program is None:
            raise SourceError(
                "the program git is missing; install it (Debian's package git), or get the files yourself and name "
                "their folder"
            )
        self._program = program
        self._repository = repository
        self.store = place / "git"
        self._said = place / "said"
        self._env = _environment(environ)
        self._ssh = environ.get("GIT_SSH_COMMAND")
        self._ends = time.monotonic() + SECONDS

    def fetch(self) -> str:
        """Have what was asked for in the store; returns the commit that it is."""
        ref = self._repository.ref
        ssh = self._ssh or self.run("config", "--default", "ssh", "--get", "core.sshCommand").decode()
        self._env["GIT_SSH_COMMAND"] = f"{ssh} -o BatchMode=yes -o ConnectTimeout=30"
        try:
            self._fetch("--depth=1", "--", self._repository.url, ref or "HEAD")
            wanted = "FETCH_HEAD"
        except SourceError:
            if ref is None or not _HEX.fullmatch(ref):
                raise
            # An abbreviated commit, or one that the host gives with its branch alone.
            self._fetch("--", self._repository.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            wanted = ref
        none = f"{self._repository}: it has no such branch, tag or commit"
        return self.run("rev-parse", "--verify", "--end-of-options", f"{wanted}^{{commit}}", failing=none).decode()

    def _fetch(self, *words: str) -> None:
        self.run("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", *words)

    def listing(self, tree: str) -> list[_Entry]:
        """All that is in a tree, at any depth.

        Raises SourceError where that is too much.
        """
        with self._started(["ls-tree", "-r", "-z", "-l", "--full-tree", tree], stdin=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            text = child.stdout.read(_LISTING)
            if len(text) == _LISTING:
                raise self._too_much()
            if child.wait():
                raise SourceError(f"{self._repository}: {self._why()}")
        entries = []
        for line in text.split(b"\0")[:-1]:
            found = _ENTRY.fullmatch(line)
            if found is None:
                raise SourceError(f"{self._repository}: git lists what is no file, symlink or submodule")
            size = 0 if found[4] == b"-" else int(found[4])
            if found[1] == b"120000" and size > _LINK_BYTES:
                raise SourceError(f"{self._repository} holds a symlink that cannot be made")
            entries.append(_Entry(checked(os.fsdecode(found[5])), found[1], found[3], size))
        if len(entries) > VERSION.entries or sum(entry.size for entry in entries) > VERSION.size:
            raise self._too_much()
        return entries

    @contextmanager
    def objects(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """A process that is asked for objects, a name a line, and answers with their contents."""
        with self._started(["cat-file", "--batch"], stdin=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            yield child.stdin, child.stdout

    def run(self, *words: str, failing: str | None = None) -> bytes:
        """What git prints, without the end of its line; `failing` is what to say where it fails.

        Raises SourceError.
        """
        with self._started(words, stdin=subprocess.DEVNULL) as child:
            try:
                printed, _ = child.communicate(timeout=max(0.0, self._ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise SourceError(
                    f"{self._repository}: it took longer than {SECONDS:.0f} s; try again, or get the files yourself "
                    "and name their folder"
                ) from None
        if child.returncode:
            raise SourceError(failing or f"{self._repository}: {self._why()}")
        return printed.strip()

    @contextmanager
    def _started(self, words: Sequence[str], stdin: int) -> Iterator[subprocess.Popen[bytes]]:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        store = [] if words[0] == "init" else [f"--git-dir={self.store}"]
        with (
            self._said.open("wb") as said,
            subprocess.Popen(
                [self._program, *settings, *store, *words],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=said,
                env=self._env,
                cwd=self.store.parent,
                start_new_session=True,  # what it starts ends with it, and finds no terminal to ask on
                preexec_fn=_confine,  # noqa: PLW1509 - whoever installs has one thread
            ) as child,
        ):
            try:
                yield child
            finally:
                if child.stdin is not None:
                    child.stdin.close()
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    def _why(self) -> str:
        with self._said.open("rb") as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL))
            return git_words.reason(said.read().decode("utf-8", "replace")) or _TOO_MUCH

    def _too_much(self) -> SourceError:
        return SourceError(f"{self._repository}: {_TOO_MUCH}")


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What git finds: who its user is, the network, and nothing that changes what it does."""
    kept = {key: environ[key] for key in (*_KEPT_VARIABLES, *_OF_HELPERS, *_PROXIES) if key in environ}
    kept |= {key: environ[key] for key in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "GIT_SSL_CAINFO") if key in environ}
    return kept | {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GCM_INTERACTIVE": "never",
        "GIT_ALLOW_PROTOCOL": "file:http:https:ssh",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": "60",
    }


def _confine() -> None:
    process.die_with_parent()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that git says it, instead of being killed
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, SIZE))
    process.limit_memory(_MEMORY)

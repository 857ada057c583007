"""What a service is installed from: a folder, an archive, or a git repository in pip's notation.

path/to/folder    path/to/archive.tar.gz    file:///srv/archive.zip#subdirectory=lung
git+https://host/repo.git@TAG#subdirectory=path    git+ssh://git@host/repo.git    git+file:///srv/repo.git@main
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from dcm_processor.errors import UsageError

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
"""How the names of archives end."""
_GIT = "git+"
_SCHEMES = ("https", "http", "ssh", "file")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:]+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SCP = re.compile(r"[A-Za-z0-9._-]+@([A-Za-z0-9.-]+):(?!//)(.+)")
_NO_REF = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-+/.]|/\.|[/.]$|\.lock$|\.lock/"
)  # git-check-ref-format(1)
_LONGEST = 255
_CREDENTIALS = (
    "holds a user or a password, and would be kept where people can read it; take them out and let git find them "
    "(a credential helper, or ssh with a key)"
)


@dataclass(frozen=True)
class Local:
    """A folder or an archive on this machine, and the folder within it that is meant, if only one is."""

    path: Path
    subdirectory: str | None = None

    def __str__(self) -> str:
        if self.subdirectory is None:
            return str(self.path)
        return f"file://{quote(str(self.path))}#subdirectory={quote(self.subdirectory)}"


@dataclass(frozen=True)
class Repository:
    """A git repository: `ref` is a branch, a tag or a commit (None: its default branch)."""

    url: str
    ref: str | None = None
    subdirectory: str | None = None

    def __str__(self) -> str:
        ref = "" if self.ref is None else f"@{self.ref}"
        return f"{_GIT}{self.url}{ref}" + (f"#subdirectory={quote(self.subdirectory)}" if self.subdirectory else "")

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can change what comes."""
        return not self.url.startswith("http:")


Source = Local | Repository


def parse(text: str, folder: Path) -> Source:
    """What a text names; relative paths are relative to `folder`. `str` of it is parsed to the same again.

    Raises UsageError, which repeats no credentials.
    """
    if not text or any(not char.isprintable() for char in text):
        raise UsageError("a source is a folder, an archive or git+URL; this one is empty or holds control characters")
    if text.startswith(_GIT):
        return _repository(text.removeprefix(_GIT))
    if found := _SCP.fullmatch(text):
        raise UsageError(f"a repository is named by a URL: git+ssh://git@{found[1]}/{found[2].lstrip('/')}")
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme == "file":
        return _file(text)
    if scheme in ("http", "https") and text.partition("#")[0].endswith(ARCHIVES):
        raise UsageError("archives are not fetched over HTTP; download it and name the file")
    if scheme in _SCHEMES:
        raise UsageError(f"a repository's address begins with git+, as in git+{scheme}://host/repo.git@TAG")
    if scheme:
        raise UsageError(f"{scheme}:// is no source; there are folders, {', '.join(ARCHIVES)}, and {_kinds()}")
    return Local(Path(folder, text).absolute())


def _repository(text: str) -> Repository:
    address, _, fragment = text.partition("#")
    parts = _split(address)
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"git+{parts.scheme or '…'} is no source; there are {_kinds()}")
    path, at, ref = parts.path.rpartition("@")
    if not at:
        path, ref = parts.path, ""
    if at and (not ref or _NO_REF.search(ref) or len(ref) > _LONGEST):
        raise UsageError(f"@{ref}: no branch, tag or commit can be called so")
    _check_address(parts)
    if not path.strip("/") or " " in address:
        raise UsageError("a repository's address names its path on the host, without spaces (%20 is one)")
    return Repository(f"{parts.scheme}://{parts.netloc}{path}", ref or None, _subdirectory(fragment))


def _check_address(parts: SplitResult) -> None:
    try:
        host, user, _ = parts.hostname or "", parts.username, parts.port
    except ValueError:
        raise UsageError("a repository's port is a number; with ssh a / stands before the path, not a colon") from None
    if parts.query or parts.password is not None or (user is not None and parts.scheme != "ssh"):
        raise UsageError(f"the address of the repository on {host or 'this machine'} {_CREDENTIALS}")
    if parts.scheme == "file":
        if host not in ("", "localhost"):
            raise UsageError(f"file:// is on this machine, and has no host as {host}")
    elif not _HOST.fullmatch(host) or (user is not None and not _USER.fullmatch(user)):
        raise UsageError("a repository's address is like https://host/repo.git or ssh://git@host/repo.git")


def _file(text: str) -> Source:
    address, _, fragment = text.partition("#")
    parts = _split(address)
    if parts.path.partition("@")[0].endswith(".git"):
        return _repository(text)
    _check_address(parts)
    return Local(Path("/", unquote(parts.path)), _subdirectory(fragment))


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise UsageError("this is no URL; a source is a folder, an archive or git+URL") from None


def _subdirectory(fragment: str) -> str | None:
    """The path in `subdirectory=path`."""
    if not fragment:
        return None
    key, _, value = fragment.partition("=")
    parts = unquote(value).rstrip("/").split("/")
    if key != "subdirectory":
        raise UsageError(f"#{fragment}: what may stand after # is subdirectory=PATH")
    if any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts):
        raise UsageError(f"#{fragment}: PATH leads down from the top of the source, like services/lung")
    return "/".join(parts)


def _kinds() -> str:
    return ", ".join(f"{_GIT}{scheme}://" for scheme in _SCHEMES)

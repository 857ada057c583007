"""Rotation: another text for a secret while everything runs; the text before is refused from then on.

Programs read a secret's file when they need it, so for tokens and the dashboard's password the file is all there is to
write. Redis and Orthanc hold their passwords themselves. For these the order is

    1 keep    the text in force goes to `.previous`, beside the secrets
    2 expect  the server takes the new text beside it, where it can (Redis)
    3 write   the secret's file, then the server's configuration, which counts at its next start
    4 take    the server takes the new text and no other
    5 forget  what 1 kept

Killed at any step, the next rotation mends it: what the server takes is in the secret's file or in `.previous`. Files
are written in place (`basedir.overwrite`), since a container has the single file mounted.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from dcm_processor import basedir
from dcm_processor.errors import DcmProcessorError, SettingsError, UsageError
from dcm_processor.names import did_you_mean
from dcm_processor.servers import OrthancServer, RedisServer, Server
from dcm_processor.settings import Settings
from dcm_processor.stack_state import state_file


class Ending(StrEnum):
    """What became of a secret that was to be rotated."""

    ROTATED = "rotated"
    NOT_OURS = "not ours"
    FAILED = "failed"


@dataclass(frozen=True)
class Rotated:
    """A secret by name, what became of it and, where it was not rotated, why."""

    name: str
    ending: Ending
    reason: str = ""


def checked(names: Sequence[str]) -> tuple[str, ...]:
    """The secrets of these names, all seven for no name, in the order of `basedir.SECRETS`.

    Raises UsageError for a name that is none.
    """
    for name in names:
        if name not in basedir.SECRETS:
            hint = did_you_mean(name, basedir.SECRETS) or f"; there are {', '.join(basedir.SECRETS)}"
            raise UsageError(f"{name!r} is no secret{hint}")
    return tuple(name for name in basedir.SECRETS if name in names or not names)


def rotate(settings: Settings, names: Sequence[str]) -> Iterator[Rotated]:
    """Rotate secrets, all seven for no name; each is told of as soon as it is done, and none keeps another from it.

    Raises UsageError for a name that is none, SettingsError where BASEDIR has no secrets or cannot be used.
    """
    wanted = checked(names)
    if not settings.secrets.is_dir():
        raise SettingsError(f"there are no secrets in {settings.secrets} yet: the first start makes them")
    foreign = {name: reason for name in wanted if (reason := _not_ours(settings, name))}
    yield from (Rotated(name, Ending.NOT_OURS, reason) for name, reason in foreign.items())
    ours = [name for name in wanted if name not in foreign]
    servers: tuple[Server, ...] = (RedisServer(settings), OrthancServer(settings))
    with basedir.alone(settings):
        running = state_file(settings).exists()
        for server in servers:
            if held := [name for name in ours if name in server.secrets]:
                yield from _ended(held, partial(exchange, server, held, settings.secrets, running=running))
        for name in ours:
            if not any(name in server.secrets for server in servers):
                text = f"{basedir.new_secret()}\n"
                yield from _ended([name], partial(basedir.overwrite, settings.secrets / name, text))


def exchange(server: Server, names: Sequence[str], secrets: Path, *, running: bool) -> None:
    """Give secrets of a server of ours new texts; `running` False: its files are all there is.

    Raises StackError where the server takes none of the texts known, TransientError where it does not answer,
    SettingsError where its configuration is not as it was made, and OSError.
    """
    previous = _Previous(secrets / ".previous")
    texts = {name: (*filter(None, [_text(secrets / name)]), *previous.texts(name)) for name in server.secrets}
    if running:
        server.check(texts)
    for name in names:
        previous.keep(name, texts[name])
    fresh = {name: basedir.new_secret() for name in names}
    if running:
        server.expect(texts, fresh)
    for name in names:
        basedir.overwrite(secrets / name, f"{fresh[name]}\n")
    current = {name: _text(secrets / name) for name in server.secrets}
    if server.file.exists():
        basedir.overwrite(server.file, server.configured(server.file.read_text(encoding="utf-8"), current))
    if running:
        server.take(texts, current)
    for name in server.secrets:  # all: what an earlier rotation left of another is settled by this one too
        previous.forget(name)


def _ended(names: Sequence[str], rotate_them: Callable[[], None]) -> Iterator[Rotated]:
    """Rotate secrets that belong together, and say how it ended for each."""
    ending, reason = Ending.FAILED, ""
    try:
        rotate_them()
        ending = Ending.ROTATED
    except DcmProcessorError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or 'its file'} cannot be used ({error.strerror}); mend that, then run this again"
    yield from (Rotated(name, ending, reason) for name in names)


def _not_ours(settings: Settings, name: str) -> str:
    """Why a secret is not this installation's to change, and what to do; "" where it is."""
    if name in RedisServer.secrets:
        return "" if settings.starts_redis else "Redis is not ours to start: change it there, then in .env.local"
    if name in OrthancServer.secrets:
        if not settings.starts_orthanc:
            return "Orthanc is not ours to start: change it there, then in .env.local"
        if name == "orthanc_password" and settings.ORTHANC_REST_PASSWORD:
            return "ORTHANC_REST_PASSWORD is set and counts instead: remove it from .env.local and the environment"
        return ""
    if settings.starts_scheduler:
        return ""
    return "the scheduler is not ours to start: rotate it on its host, then copy the file"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


class _Previous:
    """Texts that may be in force still, newest first: a private file a secret, there until its rotation is done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def texts(self, name: str) -> tuple[str, ...]:
        try:
            return tuple(json.loads((self._folder / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()

    def keep(self, name: str, texts: Sequence[str]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        basedir.sync_folder(self._folder.parent)
        basedir.write_private(self._folder / name, json.dumps(texts) + "\n")

    def forget(self, name: str) -> None:
        basedir.unfinished_of(self._folder / name).unlink(missing_ok=True)
        (self._folder / name).unlink(missing_ok=True)
        if self._folder.exists() and not any(self._folder.iterdir()):
            self._folder.rmdir()

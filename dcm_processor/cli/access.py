"""Where the scheduler is that commands speak to, and the token that lets them in: this installation's, or another's."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import click

from dcm_processor.errors import SettingsError, UsageError
from dcm_processor.settings import Settings

_LARGEST = 4096  # bytes; a token of ours has 43
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """A scheduler's address without a slash at the end, and the text of a token that it takes.

    `absent` and `refused` say what may be done where nothing answers there, or the token is refused.
    """

    url: str
    token: str
    ca_file: str | None = None
    absent: str = "is the address right, and does it run?"
    refused: str = "is it the text of that scheduler's BASEDIR/secrets/scheduler_token?"

    @classmethod
    def here(cls, settings: Settings) -> Self:
        """To this installation's scheduler.

        Raises SettingsError where there is no token yet.
        """
        start = "bash run.sh --local" if settings.MODE == "local" else "bash run.sh"
        return cls(
            url=settings.scheduler_url,
            token=settings.secret("scheduler_token"),
            ca_file=_ca_file(settings),
            absent=f"is it running? `{start}` starts it",
            refused="is BASEDIR the one it was started with?",
        )

    @classmethod
    def elsewhere(cls, url: str, token_file: Path | None, settings: Settings) -> Self:
        """To the scheduler at `url`.

        Raises UsageError where `url` is no address or no token is named, SettingsError where that cannot be read.
        """
        checked = _checked(url)
        if token_file is None:  # this installation's own is for nobody else
            raise UsageError(
                "--url needs --token-file (or DCM_PROCESSOR_TOKEN_FILE): a file with the text of that scheduler's "
                "BASEDIR/secrets/scheduler_token"
            )
        return cls(checked, read_token(token_file), _ca_file(settings))


def read_token(path: Path) -> str:
    """The token in a file; says on stderr where others may read it as well.

    Raises SettingsError where it cannot be read or holds no token.
    """
    try:
        with path.open("rb") as file:
            mode, content = path.stat().st_mode, file.read(_LARGEST + 1)
    except OSError as error:
        raise SettingsError(f"the token file {path} cannot be read: {error.strerror}") from None
    text = content.decode("ascii", "replace").strip()
    if not text or len(content) > _LARGEST or not all("!" <= char <= "~" for char in text):
        raise SettingsError(f"{path} holds no token: one word of letters and digits, and nothing else")
    if mode & stat.S_IROTH and stat.S_ISREG(mode):
        click.echo(f"warning: everybody on this machine can read {path}; `chmod 600 {path}` keeps it yours", err=True)
    return text


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or parts.query or parts.fragment or any(char.isspace() for char in url):
        raise UsageError("--url is a scheduler's address, like https://host.example.org:5443")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--url holds no user or password: the token comes from --token-file")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        click.echo("warning: with http:// the token and all answers can be read on their way; is there TLS?", err=True)
    return url.rstrip("/")


def _ca_file(settings: Settings) -> str | None:
    path = settings.EXTRA_CA_FILE
    if path is not None and not path.is_file():
        raise SettingsError(f"EXTRA_CA_FILE names {path}, which is no file; correct .env.local or the environment")
    return None if path is None else str(path)

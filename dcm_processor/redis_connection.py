"""A connection to Redis whose password is read when it connects: a rotated one holds from the next connection on."""

from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.credentials import CredentialProvider

from dcm_processor.settings import PASSWORD_FILE

Client = TypeVar("Client", bound=redis.Redis)


class _PasswordFile(CredentialProvider):
    def __init__(self, path: Path) -> None:
        self._path = path

    def get_credentials(self) -> tuple[str]:
        """The password, for the default user.

        Raises redis.ConnectionError where it cannot be read: whoever connects tries again later.
        """
        try:
            return (self._path.read_text(encoding="utf-8").strip(),)
        except OSError as error:
            raise redis.ConnectionError(f"the password in {self._path} cannot be read: {error.strerror}") from error


def connect(url: str, **options: Any) -> redis.Redis:
    """A client for a URL, which is redis-py's but for PASSWORD_FILE; `options` are redis-py's own, and win over it."""
    return connect_as(redis.Redis, url, **options)


def connect_as(kind: type[Client], url: str, **options: Any) -> Client:
    """The same with a class of one's own."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if (path := query.pop(PASSWORD_FILE, None)) is not None:
        options.setdefault("credential_provider", _PasswordFile(Path(path)))
    return cast("Client", kind.from_url(urlunsplit(parts._replace(query=urlencode(query))), **options))

"""Redis and Orthanc where they are ours: they hold passwords themselves, and must be told of another one."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from dcm_processor.errors import (
    OrthancRefusesError,
    OrthancUnavailableError,
    StackError,
    TransientError,
    TransportUnavailableError,
)
from dcm_processor.orthanc import Orthanc
from dcm_processor.passwords import ORTHANC_USERS, with_requirepass, with_users
from dcm_processor.redis_connection import connect
from dcm_processor.settings import Settings

T = TypeVar("T")
Texts = Mapping[str, tuple[str, ...]]
"""Of each secret, by name, the texts that may be the server's password now."""

PATIENCE = 60.0
"""Seconds until a server that is starting must answer."""
_TIMEOUT = 5.0  # seconds for one answer
_POLL = 0.05  # seconds


class Server(Protocol):
    """A server that holds passwords. Every method that asks it raises TransientError where it does not answer."""

    secrets: tuple[str, ...]
    """Those that it holds."""
    file: Path
    """Its configuration, read at its start."""

    def check(self, texts: Texts) -> None:
        """Wait until it answers; raises StackError where it takes none of the texts."""

    def expect(self, texts: Texts, fresh: Mapping[str, str]) -> None:
        """Have it take `fresh` beside what it takes now, where it can do that."""

    def configured(self, text: str, current: Mapping[str, str]) -> str:
        """Its configuration `text` with the `current` secrets; nothing else in it changes."""

    def take(self, texts: Texts, current: Mapping[str, str]) -> None:
        """Have it take what is `current` and nothing else; return when it does."""


class RedisServer:
    """Redis; it can have several passwords at once, and change them while it runs."""

    secrets: tuple[str, ...] = ("redis_password",)

    def __init__(self, settings: Settings) -> None:
        self.file = settings.redis_conf
        self._url = settings.redis_url

    def check(self, texts: Texts) -> None:
        with self._client(texts):
            pass

    def expect(self, texts: Texts, fresh: Mapping[str, str]) -> None:
        with self._client(texts) as client:  # whoever connects while the secret's file is written has either
            client.acl_setuser("default", enabled=True, passwords=f"+{fresh['redis_password']}")

    def configured(self, text: str, current: Mapping[str, str]) -> str:
        return with_requirepass(text, current["redis_password"])

    def take(self, texts: Texts, current: Mapping[str, str]) -> None:
        new = current["redis_password"]
        # The new one too: Redis may have been started again meanwhile, with the configuration as it is now.
        with self._client({"redis_password": (new, *texts["redis_password"])}) as client:
            client.config_set("requirepass", new)
        with self._client({"redis_password": (new,)}):
            pass

    @contextmanager
    def _client(self, texts: Texts) -> Iterator[redis.Redis]:
        """A connection that works, with the first password that Redis takes."""
        client = _patiently(lambda: self._connect(texts["redis_password"]))
        with closing(client):
            try:
                yield client
            except (redis.RedisError, OSError) as error:
                raise TransportUnavailableError(f"Redis: {error}; run it again") from None

    def _connect(self, passwords: tuple[str, ...]) -> redis.Redis:
        for password in passwords:
            client = connect(
                self._url,
                credential_provider=UsernamePasswordCredentialProvider(password=password),
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            )
            try:
                client.ping()
            except redis.AuthenticationError:
                client.close()
            except (redis.RedisError, OSError) as error:
                client.close()
                raise TransportUnavailableError(f"Redis does not answer: {error}; {_START}") from None
            else:
                return client
        raise StackError(_taken_by_nobody("Redis"))


class OrthancServer:
    """Orthanc; it reads passwords when it starts, and one call has it start anew, which takes two or three seconds."""

    secrets: tuple[str, ...] = tuple(ORTHANC_USERS.values())

    def __init__(self, settings: Settings) -> None:
        self.file = settings.orthanc_json
        self._url = settings.orthanc_url
        self._ca_file = str(settings.EXTRA_CA_FILE) if settings.EXTRA_CA_FILE else None

    def check(self, texts: Texts) -> None:
        if not _patiently(lambda: self._first(texts, lambda orthanc: orthanc.system())):
            raise StackError(_taken_by_nobody("Orthanc"))

    def expect(self, texts: Texts, fresh: Mapping[str, str]) -> None:
        pass  # a user of Orthanc has one password

    def configured(self, text: str, current: Mapping[str, str]) -> str:
        return with_users(text, {user: current[name] for user, name in ORTHANC_USERS.items()})

    def take(self, texts: Texts, current: Mapping[str, str]) -> None:
        asked = False
        deadline = time.monotonic() + PATIENCE
        while not self._takes(current):
            if time.monotonic() > deadline:
                raise OrthancUnavailableError(f"Orthanc does not take it after {PATIENCE:.0f} s; {_START}")
            if not asked:
                try:
                    asked = self._first(texts, Orthanc.reset)
                except OrthancUnavailableError:
                    asked = False
            time.sleep(_POLL)

    def _takes(self, current: Mapping[str, str]) -> bool:
        try:
            return all(
                self._first({name: (current[name],)}, lambda orthanc: orthanc.system())
                for name in ORTHANC_USERS.values()
            )
        except OrthancUnavailableError:  # on its way
            return False

    def _first(self, texts: Texts, call: Callable[[Orthanc], object]) -> bool:
        """Make a call as the first user and with the first password that Orthanc takes; False: it takes none."""
        for user, name in ORTHANC_USERS.items():
            for password in texts.get(name, ()):
                with self._as(user, password) as orthanc:
                    try:
                        call(orthanc)
                    except OrthancRefusesError:
                        continue
                    return True
        return False

    def _as(self, user: str, password: str) -> Orthanc:
        return Orthanc(self._url, user, lambda: password, timeout=_TIMEOUT, connections=1, ca_file=self._ca_file)


_START = "if it does not come, start everything again, then run this again"


def _taken_by_nobody(server: str) -> str:
    return (
        f"{server} takes neither the password in the secret's file nor one from before; "
        "stop everything and start it again, then run this again"
    )


def _patiently(ask: Callable[[], T]) -> T:
    """Ask until there is an answer; after PATIENCE what was raised last is raised."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except TransientError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL)

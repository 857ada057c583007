"""The configuration: `.env`, then `.env.local`, then the environment; the last wins. Read once, by entry points."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dcm_processor.errors import SettingsError
from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS
from dcm_processor.job_settings import parse_size
from dcm_processor.vocabulary import Level

CHECKOUT = Path(__file__).resolve().parent.parent
PASSWORD_FILE = "password_file"  # noqa: S105 - the name of a URL's parameter
"""The parameter of a Redis URL of ours that names the file with the password."""
_PATHS = (
    "BASEDIR",
    "REGISTRY",
    "MODULES",
    "DATA",
    "LOGS",
    "SECRETS",
    "SCRIPTS",
    "COMPLETENESS",
    "EXTRA_CA_FILE",
    "WHEEL_DIR",
)
_OUR_HOSTS = frozenset({"redis", "orthanc", "scheduler"})

Words = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(lambda value: tuple(value.split()) if isinstance(value, str) else value),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[int, BeforeValidator(parse_size)]
FOR_EVER = "forever"
_kept = BeforeValidator(lambda value: None if value == FOR_EVER else value)
Kept = Annotated[Annotated[float, Field(gt=0, le=100_000)] | None, _kept]
KeptADay = Annotated[Annotated[float, Field(ge=1, le=100_000)] | None, _kept]


class Settings(BaseSettings):
    """What an installation can choose; `.env` explains each key.

    `MODE` is `local` where the programs are processes of this machine (host names redis, orthanc and scheduler then
    mean 127.0.0.1) and `containers` where each runs in its own.
    """

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True, frozen=True, case_sensitive=True)

    MODE: Literal["local", "containers"] = "local"
    BASEDIR: Path = Path("basedir")
    REGISTRY: Path | None = None
    MODULES: Path | None = None
    DATA: Path | None = None
    LOGS: Path | None = None
    SECRETS: Path | None = None
    SCRIPTS: Path | None = None
    COMPLETENESS: Path | None = None

    REDIS_HOST: str = "redis"
    REDIS_PORT: Port = 6379
    REDIS_TLS: bool = False
    REDIS_URL: str | None = None
    DATABASE_URL: str | None = None
    SCHEDULER_HOST: str = "scheduler"
    SCHEDULER_PORT: Port = 5000
    SCHEDULER_TLS: bool = False
    ORTHANC_REST_URL: str = "http://orthanc:8042"
    ORTHANC_REST_USERNAME: str = "dcmproc"
    ORTHANC_REST_PASSWORD: str | None = None
    DICOM_PORT: Port = 4242
    ORTHANC_PORT: Port = 8042
    DASHBOARD_PORT: Port = 8080
    BIND_ADDRESS: str = "127.0.0.1"
    DICOM_BIND_ADDRESS: str = "0.0.0.0"  # noqa: S104 - DESIGN 4: scanners are other machines
    DICOM_AET: Annotated[str, Field(pattern=r"^[A-Za-z0-9 _.-]{1,16}$")] = "DCMPROC"
    STABLE_AGE: Annotated[int, Field(ge=1)] = 60
    TLS_NAMES: Words = ("localhost", "127.0.0.1")

    QUEUES: Words = ("high", "default", "medium", "low", "gpu")
    WORKER_QUEUES: Words = ("high", "default", "medium", "low")
    DEFAULT_PRIORITY: str = "default"
    DEFAULT_LEVEL: Level = Level.STUDY
    HEADER_FIELDS: Words = DEFAULT_HEADER_FIELDS
    CALLBACK_TIMEOUT: Annotated[float, Field(gt=0)] = 10
    LOST_AFTER: Annotated[float, Field(ge=15)] = 60
    WORKER_STOP_GRACE: Annotated[float, Field(ge=0)] = 10
    WARM_FUNCTIONS: Annotated[int, Field(ge=0, le=1000)] = 8
    WARM_MEMORY: Size = 2 * 2**30
    WARM_IDLE: Annotated[float, Field(gt=0, le=1_000_000)] = 600
    WARM_AGE: Annotated[float, Field(gt=0, le=1_000_000)] = 3600
    RUN_SCRIPTS: bool = False
    WORKER_UID: Annotated[int, Field(ge=0)] | None = None
    WORKER_GID: Annotated[int, Field(ge=0)] | None = None
    ALIVE_FILE: Path | None = None
    BASE_IMAGE: str | None = None

    DATA_BUDGET: Size | None = None
    MIN_FREE: Size | None = None
    KEEP_RESULTS: Kept = None
    KEEP_ATTEMPTS: Kept = 7
    KEEP_LOGS: Kept = 90
    KEEP_LEDGER: KeptADay = None

    HTTP_PROXY: str | None = None
    HTTPS_PROXY: str | None = None
    NO_PROXY: str | None = None
    EXTRA_CA_FILE: Path | None = None
    PIP_INDEX_URL: str | None = None
    WHEEL_DIR: Path | None = None
    TZ: str | None = None

    @classmethod
    def load(cls, checkout: Path = CHECKOUT) -> Self:
        """Read the three places.

        Raises SettingsError naming every key that is not usable.
        """
        try:
            settings = cls(_env_file=(checkout / ".env", checkout / ".env.local"))  # type: ignore[call-arg]
        except ValidationError as error:
            faults = [": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")]) for e in error.errors()]
            raise SettingsError(f"{'; '.join(faults)}; correct .env.local or the environment") from None
        return settings.model_copy(
            update={
                key: (checkout / value).resolve() for key in _PATHS if (value := getattr(settings, key)) is not None
            }
        )

    @model_validator(mode="after")
    def _queues_exist(self) -> Self:
        unknown = ({*self.WORKER_QUEUES, self.DEFAULT_PRIORITY}) - set(self.QUEUES)
        if unknown:
            raise ValueError(
                f"WORKER_QUEUES and DEFAULT_PRIORITY name {', '.join(sorted(unknown))}, which QUEUES lacks"
            )
        return self

    # -- places

    @property
    def registry(self) -> Path:
        return self.REGISTRY or self.BASEDIR / "registry"

    @property
    def modules(self) -> Path:
        return self.MODULES or self.BASEDIR / "modules"

    @property
    def data(self) -> Path:
        return self.DATA or self.BASEDIR / "data"

    @property
    def logs(self) -> Path:
        """Programs' logs; jobs' logs lie below `jobs/`."""
        return self.LOGS or self.BASEDIR / "logs"

    @property
    def completeness(self) -> Path:
        """The rules that hold studies back; in a folder of its own, which containers see as it changes."""
        return self.COMPLETENESS or self.BASEDIR / "rules" / "completeness.json"

    @property
    def secrets(self) -> Path:
        """One file a secret."""
        return self.SECRETS or self.BASEDIR / "secrets"

    @property
    def run(self) -> Path:
        """What runs where (stack.json), and supervisord's socket."""
        return self.BASEDIR / "run"

    @property
    def redis_conf(self) -> Path:
        """Redis's configuration: it holds the password, which so stands in no command line."""
        return self.run / "redis.conf"

    @property
    def orthanc_json(self) -> Path:
        """Orthanc's configuration, with its passwords; every .json beside it would be read too."""
        return self.BASEDIR / "orthanc" / "config" / "orthanc.json"

    @property
    def envs(self) -> Path:
        return self.BASEDIR / "envs"

    @property
    def cache(self) -> Path:
        return self.BASEDIR / "cache"

    @property
    def spool(self) -> Path:
        """A worker host's own disk: logs and outcomes not yet acknowledged, outputs of running attempts' logs."""
        return self.BASEDIR / "run" / "spool"

    @property
    def scripts(self) -> Path:
        """Which script.sh of services ran on this machine, or in this container, and how it ended."""
        in_container = Path("/var/lib/dcm-processor/scripts")
        return self.SCRIPTS or (in_container if self.MODE == "containers" else self.run / "scripts")

    @property
    def runs_scripts(self) -> bool:
        """Whether the script.sh of services are run: in containers, and in local mode where it was asked for."""
        return self.MODE == "containers" or self.RUN_SCRIPTS

    # -- addresses

    def host(self, name: str) -> str:
        """The address of one of our hosts: in local mode everything is on 127.0.0.1."""
        return "127.0.0.1" if self.MODE == "local" and name in _OUR_HOSTS else name

    @property
    def starts_redis(self) -> bool:
        """Whether Redis is ours to start."""
        return self.REDIS_URL is None and self.REDIS_HOST == "redis"

    @property
    def starts_orthanc(self) -> bool:
        """Whether Orthanc is ours to start."""
        return urlsplit(self.ORTHANC_REST_URL).hostname == "orthanc"

    @property
    def starts_scheduler(self) -> bool:
        """Whether the scheduler is ours to start; on a host that has workers only it is not."""
        return self.SCHEDULER_HOST == "scheduler"

    @property
    def redis_url(self) -> str:
        """As `redis_connection.connect` takes it: it names the file with the password, not the password.

        A REDIS_URL is taken as it is, and may hold one.
        """
        url = self.REDIS_URL
        options: dict[str, str] = {}
        if url is None:
            scheme = "rediss" if self.REDIS_TLS else "redis"
            url = f"{scheme}://{self.host(self.REDIS_HOST)}:{self.REDIS_PORT}/0"
            if self.secret("redis_password", missing_ok=True):
                options[PASSWORD_FILE] = str(self.secrets / "redis_password")
        if url.startswith("rediss:") and self.EXTRA_CA_FILE is not None and "ssl_ca_certs" not in url:
            options["ssl_ca_certs"] = str(self.EXTRA_CA_FILE)
        return f"{url}{'&' if '?' in url else '?'}{urlencode(options)}" if options else url

    @property
    def database_url(self) -> str:
        """Without the password of a PostgreSQL that is ours: its host's name is `postgres`, libpq reads a file."""
        url = self.DATABASE_URL or f"sqlite:///{self.BASEDIR / 'db' / 'ledger.sqlite'}"
        if not self.starts_postgres:
            return url
        passfile = self.passfile if self.SECRETS is None else self.SECRETS / self.passfile.name
        return f"{url}{'&' if '?' in url else '?'}{urlencode({'passfile': passfile})}"

    @property
    def starts_postgres(self) -> bool:
        """Whether PostgreSQL is ours to start, which only containers do."""
        return self.MODE == "containers" and urlsplit(self.DATABASE_URL or "").hostname == "postgres"

    @property
    def passfile(self) -> Path:
        """The password of our PostgreSQL as libpq reads it (PostgreSQL's manual, 34.16 "The Password File")."""
        return self.run / "postgres_passfile"

    @property
    def orthanc_url(self) -> str:
        """Without user and password, without a slash at the end."""
        parts = urlsplit(self.ORTHANC_REST_URL)
        if parts.hostname == "orthanc" and self.MODE == "local":
            return f"{parts.scheme}://127.0.0.1:{self.ORTHANC_PORT}"
        return urlunsplit(parts).rstrip("/")

    @property
    def dicom_address(self) -> tuple[str, int]:
        """Where our own Orthanc takes DICOM, as a program of ours reaches it; a foreign one's port is DICOM_PORT."""
        host = urlsplit(self.orthanc_url).hostname or "127.0.0.1"
        return host, 4242 if self.MODE == "containers" and self.starts_orthanc else self.DICOM_PORT

    @property
    def orthanc_page(self) -> str:
        """Orthanc's address for a browser on this machine."""
        return f"{self.published(self.ORTHANC_PORT)}" if self.starts_orthanc else self.orthanc_url

    @property
    def dashboard_page(self) -> str:
        """The dashboard's address for a browser on this machine."""
        return self.published(self.DASHBOARD_PORT)

    def published(self, port: int) -> str:
        """The URL of a port that is published on BIND_ADDRESS, for a client on this machine."""
        bind = self.BIND_ADDRESS
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104 - listened on, not opened
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def orthanc_password(self) -> str:
        return self.ORTHANC_REST_PASSWORD or self.secret("orthanc_password")

    @property
    def scheduler_url(self) -> str:
        return f"{'https' if self.SCHEDULER_TLS else 'http'}://{self.host(self.SCHEDULER_HOST)}:{self.SCHEDULER_PORT}"

    def secret(self, name: str, *, missing_ok: bool = False) -> str:
        """The text of a secret as it is now.

        Raises SettingsError where it cannot be read; with `missing_ok` a missing one is "".
        """
        path = self.secrets / name
        try:
            return path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            if missing_ok:
                return ""
            raise SettingsError(f"the secret {path} does not exist; run.sh makes it at the first start") from None
        except OSError as error:
            raise SettingsError(f"the secret {path} cannot be read: {error.strerror}") from None


def checkout_from_environment() -> Path:
    """The folder of `.env`: DCM_PROCESSOR_HOME where set (a CLI installed elsewhere), else this checkout."""
    return Path(os.environ.get("DCM_PROCESSOR_HOME") or CHECKOUT)

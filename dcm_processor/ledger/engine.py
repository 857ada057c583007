"""The database under the ledger: SQLite (WAL, every commit on the disk) or PostgreSQL, and its migrations."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from dcm_processor import compact_json
from dcm_processor.errors import LedgerError, LedgerUnavailableError
from dcm_processor.ledger.prepared import call
from dcm_processor.ledger.schema import REVISION

_JSON: Any = {"json_serializer": compact_json.dumps, "json_deserializer": compact_json.loads}
_PAGE, _LOG_PAGES = 4096, 1000
_PRIVATE = stat.S_IRUSR | stat.S_IWUSR
_MIGRATING = 0x64636D70  # the number of the lock that whoever migrates holds; "dcmp"
# As SQLite says it, of its own accord: nobody has migrated it yet. The numbers: PostgreSQL's manual, appendix A.
_LACKING = {"42P01": "no such table", "42703": "no such column"}
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.sshfs",
     "fuse.glusterfs", "fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone", "ncpfs", "ocfs2", "davfs", "fuse.davfs2"}
)  # fmt: skip
_UNREADABLE = (
    "DATABASE_URL cannot be read as a database's address: write postgresql+psycopg://user:password@host:5432/name, "
    "with %40 for an @ in user or password, %3A for a :, %2F for a /; or sqlite:////absolute/path"
)


def make_engine(url: str, *, busy_timeout: float) -> Engine:
    """An engine whose transactions are all-or-nothing and, once committed, on the disk.

    `busy_timeout`: seconds to wait for another writer (SQLite) or a free connection.

    Raises LedgerError where the URL cannot serve as a ledger.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise LedgerError(f"DATABASE_URL names {backend}; the ledger knows sqlite and postgresql+psycopg")
        if backend == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise LedgerError("DATABASE_URL must name a file: a ledger in memory would be lost")
            _refuse_network_file_system(Path(parsed.database).absolute())
            engine = create_engine(
                parsed, hide_parameters=True,  # they hold elements' values, and an error's text goes into the log
                connect_args={"timeout": busy_timeout, "check_same_thread": False}, **_JSON,
            )  # fmt: skip
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        if "@" in f"{parsed.host}{parsed.database}":  # part of the password, which errors of the connection would show
            raise LedgerError(_UNREADABLE)
        return create_engine(
            parsed, hide_parameters=True, pool_pre_ping=True, pool_timeout=busy_timeout, **_JSON,
            connect_args={
                "connect_timeout": max(2, int(busy_timeout)), "application_name": "dcm-processor",
                "client_encoding": "utf8",  # else psycopg hands out bytes where the database is SQL_ASCII
            },
        )  # fmt: skip
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LedgerError(f"DATABASE_URL cannot be used: {error}") from None
    except (ArgumentError, ValueError, TypeError):  # their texts hold pieces of the URL, perhaps of its password
        raise LedgerError(_UNREADABLE) from None


def migrate(engine: Engine) -> None:
    """Bring the database to the schema of this code; harmless where it is there already, or somebody else is at it.

    Raises LedgerUnavailableError where the database does not answer, LedgerError where it is newer than this code or
    cannot hold every text.
    """
    if engine.dialect.name == "sqlite":
        _make_private(Path(str(engine.url.database)).absolute())
    with transient_faults():
        if _revision(engine) != REVISION:
            _upgrade(engine)


def _make_private(path: Path) -> None:
    """A file of our own user's alone, before anything is in it; SQLite gives its mode to those beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(_PRIVATE)
        if stat.S_IMODE(path.stat().st_mode) != _PRIVATE:  # whoever looked for a ledger may have made it
            path.chmod(_PRIVATE)
    except OSError as error:
        raise LedgerUnavailableError(f"{error.filename}, for the ledger, cannot be used: {error.strerror}") from error


def _revision(engine: Engine) -> str | None:
    """The schema that the database has; None: it has none. Alembic, which many programs need not load, is not asked."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
        return found


def _upgrade(engine: Engine) -> None:
    from alembic import command  # noqa: PLC0415 - a tenth of a program's start, and 10 MB of it
    from alembic.config import Config  # noqa: PLC0415
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "dcm_processor.ledger:migrations")
    config.set_main_option("path_separator", "os")
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            _refuse_narrow_encoding(connection)
            connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")  # then it is tried again
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")  # SQLite has one writer anyway
        revision = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise LedgerError(
                f"the ledger is at schema {revision}, which this version does not know; install the newer version"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def make_room(engine: Engine) -> None:
    """Have SQLite's write-ahead log as long as it gets before it begins anew (its default is 1,000 pages).

    A commit that overwrites part of a file is on the disk in half the time of one that makes it grow. What is written
    for that is rolled back. Raises LedgerUnavailableError where the disk has no room, or others write.
    """
    if engine.dialect.name != "sqlite" or _log_size(engine) >= _LOG_PAGES * _PAGE:
        return
    with transient_faults(), engine.connect().execution_options(write=True) as connection:
        usual = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
        try:
            connection.exec_driver_sql("PRAGMA cache_size = 16")  # what does not fit is in the log before the end
            connection.exec_driver_sql("CREATE TABLE room (page BLOB)")
            connection.exec_driver_sql(
                "WITH RECURSIVE page(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM page WHERE n <= ?) "
                "INSERT INTO room SELECT zeroblob(?) FROM page",
                (_LOG_PAGES, _PAGE - 96),
            )
        finally:
            connection.rollback()
            connection.exec_driver_sql(f"PRAGMA cache_size = {usual}")


def _log_size(engine: Engine) -> int:
    try:
        return Path(f"{engine.url.database}-wal").stat().st_size
    except OSError:
        return 0


@contextmanager
def transient_faults() -> Iterator[None]:
    """Turn the driver's word for locked, full, away or still without its schema into LedgerUnavailableError."""
    try:
        yield
    except OperationalError as error:
        raise LedgerUnavailableError(f"the ledger's database does not take the write or read: {error.orig}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise LedgerUnavailableError(f"the connection to the ledger's database broke: {error.orig}") from error
        if lacking := _LACKING.get(getattr(error.orig, "sqlstate", "")):
            raise LedgerUnavailableError(f"the ledger's database has {lacking} yet") from error
        raise


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event decides where a transaction begins, not the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once: one that first reads and then writes could otherwise fail at the write."""
    write = connection.get_execution_options().get("write", False)
    begin = "BEGIN IMMEDIATE" if write else "BEGIN"
    call(connection, begin, lambda cursor: cursor.execute(begin))


def _refuse_narrow_encoding(connection: Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding not in ("UTF8", "SQL_ASCII"):  # the latter keeps whatever it is given
        raise LedgerError(
            f"DATABASE_URL names a database in {encoding}, which cannot hold the text of every study; "
            "make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def _refuse_network_file_system(path: Path) -> None:
    kind = file_system(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise LedgerError(
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold; "
            "set DATABASE_URL to a PostgreSQL database, or BASEDIR to a local disk"
        )


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds `path` (or would); "" where the machine does not tell."""
    while not path.exists():
        path = path.parent
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        head, _, tail = line.partition(" - ")
        point = head.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, tail.split()[0]
    return kind

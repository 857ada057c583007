"""What is left when all is done and should not be: processes, temporary files, keys in Redis."""

import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import redis
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from tests.faults.services import LEFT_BEHIND

_BLANK = ".blank"
_KEPT = 2
_PARTIAL = (".part", ".trash", ".new")


def of_functions() -> list[str]:
    """Processes that functions started and that outlived them."""
    return [
        f"process {process.pid} that a function started"
        for process in psutil.process_iter(["cmdline"])
        if LEFT_BEHIND in (process.info["cmdline"] or ())
    ]


def processes(base: Path, programs: Collection[int]) -> list[str]:
    """Processes that belong to `base` and are neither a program of it nor what a program at rest has beside it."""
    found = of_functions()
    kept: Counter[int] = Counter()
    spare: Counter[int] = Counter()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or not _belongs(process, base) or process.pid in programs:
                continue
            line = " ".join(process.cmdline())
            parent = process.ppid()
            if "supervisord" in line or (parent in programs and ("gunicorn" in line or "multiprocessing" in line)):
                continue
            if "--warm=" in line and any(above.pid in programs for above in process.parents()):
                kept[parent] += 1  # a keeper has what imported the module, and a fork that waits
                if kept[parent] <= _KEPT:
                    continue
            if line.endswith("-m worker") and parent in programs:
                spare[parent] += 1  # the horse to come
                if spare[parent] <= 1:
                    continue
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid}: {line[:100]}")
    return found


def _belongs(process: psutil.Process, base: Path) -> bool:
    return process.environ().get("DCM_PROCESSOR_STACK") == str(base) or str(base) in " ".join(process.cmdline())


def files(base: Path, data: Path, attempts: Mapping[str, str]) -> list[str]:
    """Temporary files; `attempts` are the states of all attempts by id."""
    spool = base / "run" / "spool"
    found = [f"spool: {place.name}" for place in _in(spool) if place.name != _BLANK]
    found += [f"spool: {place}" for place in _in(spool / _BLANK) if not _held(place / "lock")]
    found += [f"partial: {place}" for root in (base, data) for place in _all(root) if place.suffix in _PARTIAL]
    for place in _in(Path(tempfile.gettempdir())):
        if place.name.startswith("dcmproc-") and place.is_symlink() and str(place.readlink()).startswith(str(base)):
            found.append(f"temporary: {place}")
    for place in _in(data / "attempts"):
        if "." not in place.name and attempts.get(place.name) in ("finished", "queued", "started", None):
            found.append(f"output of an attempt that is {attempts.get(place.name)}: {place.name}")
    return found


def _held(lock: Path) -> bool:
    """Whether a process holds that lock (flock)."""
    with suppress(OSError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _all(folder: Path) -> Iterator[Path]:
    for root, names, plain in os.walk(folder):
        names[:] = [name for name in names if name not in ("envs", "cache", "redis")]
        yield from (Path(root, name) for name in (*names, *plain))


def keys(client: redis.Redis) -> list[str]:
    """Keys in Redis that would stay there: of ours all but a few standing ones, of RQ's those of jobs.

    What RQ's workers do about executions that were broken off, every ten minutes, is done at once.
    """
    found: list[str] = []
    for raw in cast("list[bytes]", client.smembers("rq:queues")):
        name = raw.decode().removeprefix("rq:queue:")
        StartedJobRegistry(name, connection=client, serializer=JSONSerializer).cleanup()
    for raw in cast("list[bytes]", list(client.scan_iter(count=1000))):
        name = raw.decode()
        ttl = client.ttl(name)
        if ttl == -2 or name in ("dcmproc:marker", "dcmproc:wake", "rq:workers", "rq:queues"):
            continue
        if name in ("dcmproc:reports", "dcmproc:logs", "dcmproc:announced"):
            if size := _size(client, name):
                found.append(f"key {name} holds {size}")
        elif name.startswith(("rq:workers:", "rq:worker:")):
            continue  # of a worker that serves; RQ cleans up after others
        elif name.startswith("rq:") and not name.startswith(("rq:job:", "rq:results:", "rq:execution")):
            if (not name.startswith(("rq:finished:", "rq:failed:", "rq:clean_registries:"))) and ttl == -1:
                found += [f"key {name} holds {size}"] if (size := _size(client, name)) else []
        elif ttl == -1:
            found.append(f"key {name} stays for ever")
    return found


def _size(client: redis.Redis, name: str) -> int:
    kind = cast("Any", client.type(name)).decode()
    size = {"stream": client.xlen, "hash": client.hlen, "list": client.llen, "set": client.scard, "zset": client.zcard}
    return int(cast("Any", size[kind](name))) if kind in size else 1

"""What a hop (benchmarks/hop.py) is made of, by bare means: what this machine takes for it at the moment.

    python bare_hop.py worker|controller PORT FOLDER HOPS SECONDS

The same processes hand on, and as much is on the disk before each says so: a forked process ends; its parent has its
file and folder on the disk (fsync), then an outcome (fdatasync), and adds an entry to a Redis stream; another process,
which waits for that, commits one row to SQLite (WAL, synchronous=FULL) and pushes to a list. No library of ours or of
others; nothing is decided, checked or recorded.
"""

import os
import socket
import sqlite3
import sys
import time
from pathlib import Path

REPORTS, QUEUE = "bare:reports", "bare:queue"
_OUTCOME = 400


def ask(connection: socket.socket, *words: object) -> bytes:
    """Send one command to Redis (RESP) and wait for its answer."""
    lines = [f"*{len(words)}", *(line for word in map(str, words) for line in (f"${len(word)}", word)), ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection.recv(65536)


def worker(connection: socket.socket, folder: Path, hops: int, seconds: float) -> None:
    outcome = os.open(folder / "outcome", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(outcome, b" " * _OUTCOME)
    os.fsync(outcome)
    for number in range(hops):
        output = folder / f"job-{number}"
        output.mkdir()
        if (pid := os.fork()) == 0:
            time.sleep(seconds)
            (output / "end").write_text(repr(time.time()))
            os._exit(0)
        os.waitpid(pid, 0)
        for path in (output / "end", output):
            opened = os.open(path, os.O_RDONLY)
            os.fsync(opened)
            os.close(opened)
        os.pwrite(outcome, b"x" * _OUTCOME, 0)
        os.fdatasync(outcome)
        ask(connection, "XADD", REPORTS, f"{number + 1}-0", "job", number)
        time.sleep(seconds)


def controller(connection: socket.socket, folder: Path, hops: int, _seconds: float) -> None:
    with sqlite3.connect(folder / "ledger.sqlite", isolation_level=None) as ledger:
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE jobs (number, state)",
        ):
            ledger.execute(statement)
        for number in range(hops):
            while not ask(connection, "XREAD", "BLOCK", 5000, "STREAMS", REPORTS, f"{number}-0").startswith(b"*1"):
                pass
            ledger.execute("INSERT INTO jobs VALUES (?, 'finished')", (number,))
            ask(connection, "RPUSH", QUEUE, number)


if __name__ == "__main__":
    role, port, place, count, pause = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port))) as server:
        {"worker": worker, "controller": controller}[role](server, Path(place), int(count), float(pause))

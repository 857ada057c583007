"""How long Orthanc waits for its hook's answer, against the least that could do the job.

Both run under the same gunicorn settings, on the same disk and the same Valkey, in one run, request by request in turn:

- ours: POST /stable-study of the scheduler;
- bare: a Flask route that inserts one row (SQLite, WAL, synchronous=FULL) and appends one entry to a Redis stream.

`python -m benchmarks.hook` prints both medians and their ratio, and ends with 1 where the ratio is above 1.5.
"""

import argparse
import http.client
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
from flask import Flask, Response, jsonify, request

from tests.servers import ValkeyServer, free_port
from tests.waiting import wait_until

LIMIT = 1.5
TOKEN = "token-of-the-benchmark"


def bare_app() -> Flask:
    """The least: one row, one entry; gunicorn loads it as `benchmarks.hook:bare_app()`."""
    app = Flask("bare")
    database = Path(os.environ["BASEDIR"]) / "bare.sqlite"
    stream = redis.Redis.from_url(os.environ["REDIS_URL"])
    local = threading.local()

    def connection() -> sqlite3.Connection:
        opened: sqlite3.Connection | None = getattr(local, "connection", None)
        if opened is None:
            opened = local.connection = sqlite3.connect(database)
            opened.execute("PRAGMA journal_mode = WAL")
            opened.execute("PRAGMA synchronous = FULL")
        return opened

    connection().execute("CREATE TABLE events (event_id INTEGER PRIMARY KEY, study_id TEXT, received_at REAL)")

    @app.post("/stable-study")
    def stable_study() -> tuple[Response, int]:
        study_id = request.get_json()["studyId"]
        with connection() as db:
            event_id = db.execute(
                "INSERT INTO events (study_id, received_at) VALUES (?, ?)", (study_id, time.time())
            ).lastrowid
        stream.xadd("bare", {"reason": "stable"}, maxlen=1000, approximate=True)
        return jsonify(status="accepted", studyId=study_id, eventId=event_id), 202

    return app


@contextmanager
def gunicorn(folder: Path, redis_url: str, application: str | None) -> Iterator[int]:
    """gunicorn with the scheduler's settings on a free port; `application` None: the scheduler."""
    port = free_port()
    environment = os.environ | {
        "MODE": "local",
        "BASEDIR": str(folder),
        "REDIS_URL": redis_url,
        "SCHEDULER_PORT": str(port),
    }
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        "python:scheduler.gunicorn_conf",
        *([application] if application else []),
    ]
    with (folder / f"{port}.log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as server:
        try:
            wait_until(lambda: answers(port), 20, "gunicorn answers")
            yield port
        finally:
            server.send_signal(signal.SIGTERM)


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status in (200, 404)
    except OSError:
        return False
    finally:
        connection.close()


class Client:
    """Sends hooks over one connection, so that the time is the server's."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.seconds: list[float] = []

    def send(self) -> None:
        study_id = "-".join(f"{random.getrandbits(32):08x}" for _ in range(5))
        body = json.dumps({"studyId": study_id})
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        began = time.perf_counter()
        self._connection.request("POST", "/stable-study", body, headers)
        response = self._connection.getresponse()
        response.read()
        self.seconds.append(time.perf_counter() - began)
        if response.status != 202:
            raise SystemExit(f"answered {response.status}, not 202")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1500, help="hooks sent to each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=40, help="stop sending after so long (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the databases lie (default: a temporary folder)")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        (folder / "secrets").mkdir()
        (folder / "secrets" / "hook_token").write_text(TOKEN)
        valkey = stack.enter_context(ValkeyServer(folder / "valkey"))
        ours, bare = (
            Client(stack.enter_context(gunicorn(folder, valkey.url, application)))
            for application in (None, "benchmarks.hook:bare_app()")
        )
        deadline = time.monotonic() + arguments.seconds
        for number in range(arguments.requests + 100):
            if number == 100:  # warm now
                ours.seconds.clear()
                bare.seconds.clear()
            for client in random.sample((ours, bare), 2):
                client.send()
            if time.monotonic() > deadline:
                break
    medians = [statistics.median(client.seconds) * 1000 for client in (ours, bare)]
    tails = [statistics.quantiles(client.seconds, n=100)[98] * 1000 for client in (ours, bare)]
    ratio = medians[0] / medians[1]
    print(
        f"hook answered, {len(ours.seconds)} requests each, ms: ours {medians[0]:.2f} (99 %: {tails[0]:.2f}), "
        f"bare {medians[1]:.2f} (99 %: {tails[1]:.2f}); ratio of medians {ratio:.2f}, at most {LIMIT}"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

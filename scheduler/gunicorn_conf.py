"""gunicorn's configuration, and the application: `gunicorn -c python:scheduler.gunicorn_conf`, from any folder.

One process with threads: all it does is wait for disks and sockets, and writers of one process take turns at the ledger
instead of racing for its lock. Half of the threads at most carry files (`scheduler/transfers.py`). The listening
socket is the parent's, so hooks wait there while a worker is replaced.
"""

import gc
import os
from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger

from dcm_processor.logging import get_logger, set_up_logging
from dcm_processor.process import die_with_parent
from dcm_processor.settings import Settings, checkout_from_environment

_QUIET = ("/health/live", "/health/ready")


class JsonLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's messages and one line a request, as the rest of the scheduler's log. A line has no query string."""

    def setup(self, cfg: Any) -> None:
        """Hand everything to the root logger."""
        self.cfg = cfg
        set_up_logging("scheduler")
        for log in (self.error_log, self.access_log):
            log.handlers = []
            log.propagate = True
        self._requests = get_logger("scheduler.requests")

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:  # noqa: ARG002 - gunicorn's signature
        """One line a request, after it was answered; probes that were well are left out."""
        status = int(str(resp.status).split(None, 1)[0])
        if environ["PATH_INFO"] in _QUIET and status == 200:
            return
        self._requests.info(
            "request",
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"],
            status=status,
            bytes=resp.sent,
            milliseconds=round(request_time.total_seconds() * 1000, 1),
            remote=environ.get("REMOTE_ADDR"),
        )


_settings = Settings.load(checkout_from_environment())  # this module is an entry point: gunicorn loads it, once

wsgi_app = "scheduler.app:create_app()"
# In local mode this machine alone; in a container its whole network, of which Compose publishes what it is told to.
bind = f"{'127.0.0.1' if _settings.MODE == 'local' else '0.0.0.0'}:{_settings.SCHEDULER_PORT}"  # noqa: S104 - see above
proc_name = "dcm-processor-scheduler"
worker_class = "gthread"
workers = 1
threads = 16
keepalive = 5
timeout = 60
graceful_timeout = 10
logger_class = JsonLogger
control_socket_disable = True  # else gunicorn makes a socket below the user's home
# The worker's sign of life is a file: on a disk that hangs it would look dead.
_MEMORY = "/dev/shm"  # noqa: S108 - gunicorn makes its file there as mkstemp does
worker_tmp_dir = _MEMORY if os.access(_MEMORY, os.W_OK) else None


def post_fork(_arbiter: Any, _worker: Any) -> None:
    """No child keeps the port of a parent that was killed: whoever starts the next one finds it free."""
    die_with_parent()


def post_worker_init(_worker: Any) -> None:
    """What was imported stays: no collection looks at it again, not even the last one, at the end."""
    gc.collect()
    gc.freeze()

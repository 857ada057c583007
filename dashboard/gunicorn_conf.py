"""gunicorn for the dashboard: `gunicorn -c python:dashboard.gunicorn_conf`, an entry point like any `__main__`.

One process, a few threads: pages are short reads. The process holds the memory of wrong passwords, so one is enough
and more would each start counting anew.
"""

import gc
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger

from dcm_processor.logging import set_up_logging
from dcm_processor.process import die_with_parent
from dcm_processor.settings import Settings, checkout_from_environment

_settings = Settings.load(checkout_from_environment())


class JsonLog(Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's own lines in the form of all our logs."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        set_up_logging("dashboard")
        self.error_log.handlers = []
        self.error_log.propagate = True


wsgi_app = "dashboard.app:create_app()"
# In a container Compose publishes the port on BIND_ADDRESS, and the process listens on all of the container's own.
_address = _settings.BIND_ADDRESS if _settings.MODE == "local" else "0.0.0.0"  # noqa: S104 - see above
bind = f"{f'[{_address}]' if ':' in _address else _address}:{_settings.DASHBOARD_PORT}"
proc_name = "dcm-processor-dashboard"
worker_class = "gthread"
workers = 1
threads = 8
timeout = 60
graceful_timeout = 5
keepalive = 15
logger_class = JsonLog
control_socket_disable = True  # else gunicorn makes a socket below the user's home
# The worker's heartbeat is a file; on a disk that stalls it would look dead.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - where Linux keeps memory files


def post_fork(_arbiter: Any, _worker: Any) -> None:
    """No child keeps the port of a parent that was killed: whoever starts the next one finds it free."""
    die_with_parent()


def post_worker_init(_worker: Any) -> None:
    """What was imported stays: no collection looks at it again, not even the last one, at the end."""
    gc.collect()
    gc.freeze()

"""`python -m worker.container`: a worker's container, from root to the worker.

It starts as root with the few capabilities that apt-get needs (docker-compose.worker.yml), runs the script.sh of
services, and becomes `python -m worker`: the user WORKER_UID, WORKER_GID, without any capability nor a way to one, root
though that user may be. So a script that is new has to wait for the container's next start.
"""

import os
import pwd
import signal
import sys
from collections.abc import Sequence

from dcm_processor.errors import ServiceError, SettingsError
from dcm_processor.logging import set_up_logging
from dcm_processor.settings import Settings, checkout_from_environment
from worker import surroundings
from worker.scripts import Owner, Scripts

_ENDING = (signal.SIGTERM, signal.SIGINT)
_STOPPED = 143


def main() -> int:
    """Run the scripts, then become the worker; returns, with an exit status, only where that cannot be."""
    try:
        settings = Settings.load(checkout_from_environment())
        owner = _owner(settings)
    except SettingsError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    set_up_logging("worker")
    for number in _ENDING:  # the first process of a container is not ended by them unless it says so
        signal.signal(number, lambda *_: sys.exit(_STOPPED))
    try:
        _run_scripts(settings, owner)
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # until the worker can take them
        os.execvp("setpriv", dropped(owner, [sys.executable, "-m", "worker"]))  # noqa: S606 - no shell is wanted
    except (ServiceError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1


def _owner(settings: Settings) -> Owner:
    if settings.WORKER_UID is None or settings.WORKER_GID is None:
        raise SettingsError("WORKER_UID and WORKER_GID are missing: the user and group that jobs run as")
    if os.geteuid() != 0:
        raise SettingsError(
            'a worker\'s container starts as root to run the script.sh of services; give it `user: "0:0"`, as '
            "docker-compose.worker.yml does, and it goes on as WORKER_UID"
        )
    return Owner(settings.WORKER_UID, settings.WORKER_GID)


def _run_scripts(settings: Settings, owner: Owner) -> None:
    own = settings.model_copy(update={"BASEDIR": settings.scripts})  # root writes nothing into the user's
    surroundings.make_ca_bundle(own)
    environ = {**os.environ, "HOME": pwd.getpwuid(0).pw_dir}  # what root leaves in HOME is not in the worker's way
    Scripts(settings).run_missing(surroundings.of_script(own, environ), owner)


def dropped(owner: Owner, command: Sequence[str]) -> list[str]:
    """The command line that becomes `command`: that user, no further groups, no capability, and no way to any."""
    drop = ["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", *drop, "--", *command]


if __name__ == "__main__":
    sys.exit(main())

"""`python -m worker`: one worker process."""

import os
import sys

from dcm_processor.errors import ServiceError, SettingsError
from dcm_processor.logging import get_logger, set_up_logging
from dcm_processor.settings import Settings, checkout_from_environment
from dcm_processor.store import SCRIPT_NOT_RUN
from worker import surroundings
from worker.scripts import Scripts
from worker.worker import serve

log = get_logger()


def main() -> int:
    """Serve until told to stop; the exit status."""
    try:
        settings = Settings.load(checkout_from_environment())
        settings.redis_url, settings.orthanc_password  # noqa: B018 - a secret that is missing is said now, not by a job
        surroundings.make_ca_bundle(settings)
    except SettingsError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"worker: EXTRA_CA_FILE cannot be used: {error}", file=sys.stderr)
        return 2
    set_up_logging("worker")
    try:
        if settings.MODE == "local":  # in a container, root has run them
            _see_to_scripts(settings)
    except (ServiceError, OSError) as error:
        print(f"worker: the script.sh of services cannot be run: {error}", file=sys.stderr)
        return 1
    serve(settings)
    return 0


def _see_to_scripts(settings: Settings) -> None:
    scripts = Scripts(settings)
    if settings.runs_scripts:
        scripts.run_missing(surroundings.of_script(settings, os.environ))
        return
    for script in scripts.current():
        log.warning(f"the script.sh of service {script.service} {SCRIPT_NOT_RUN}", service=script.service)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m worker`: one worker process."""

import sys

from dcm_processor.errors import SettingsError
from dcm_processor.logging import set_up_logging
from dcm_processor.settings import Settings, checkout_from_environment
from worker.surroundings import make_ca_bundle
from worker.worker import serve


def main() -> int:
    """Serve until told to stop; the exit status."""
    try:
        settings = Settings.load(checkout_from_environment())
        settings.redis_url, settings.orthanc_password  # noqa: B018 - a secret that is missing is said now, not by a job
        make_ca_bundle(settings)
    except SettingsError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"worker: EXTRA_CA_FILE cannot be used: {error}", file=sys.stderr)
        return 2
    set_up_logging("worker")
    serve(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

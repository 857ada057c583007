"""`run.sh --local --demo` from the command to the finished table, in a BASEDIR of its own on free ports.

    .venv/bin/python benchmarks/demo.py

Package caches are warm when this was run once before. At most 60 s; exit status 1 above it, or where a job failed.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers import free_port

CHECKOUT = Path(__file__).resolve().parent.parent
LIMIT = 60.0
PORTS = ("DICOM_PORT", "ORTHANC_PORT", "REDIS_PORT", "SCHEDULER_PORT", "DASHBOARD_PORT")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "BASEDIR": f"{folder}/base", **{port: str(free_port()) for port in PORTS}}
        began = time.monotonic()
        demo = subprocess.run(["bash", CHECKOUT / "run.sh", "--local", "--demo"], env=environ, check=False)
        took = time.monotonic() - began
        subprocess.run(["bash", CHECKOUT / "run.sh", "--local", "--down"], env=environ, check=True)
    print(f"run.sh --local --demo: {took:.1f} s (limit {LIMIT:.0f} s), exit status {demo.returncode}")
    return 0 if demo.returncode == 0 and took <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

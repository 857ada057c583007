"""A cached environment, found for a job: against reading the requirements and one look at the interpreter.

The requirements are a lock of 200 packages with 30 hashes each (a service with torch has half of that). Each look-up
begins as in a new work-horse: nothing is kept from the one before.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dcm_processor.environments.environment_key import recipe
from dcm_processor.settings import Settings
from worker.environments import Environments

LIMIT_MS = 5.0
TIMES = 500


def lock() -> str:
    hashes = " \\\n".join(f"    --hash=sha256:{number:064x}" for number in range(30))
    return "".join(f"package-{number}==1.0 ; sys_platform == 'nowhere' \\\n{hashes}\n" for number in range(200))


def milliseconds(call: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(BASEDIR=Path(folder) / "base")
        module = Path(folder) / "module"
        module.mkdir()
        (module / "requirements.txt").write_text("package-1\n")
        (module / "requirements.lock").write_text(lock())
        (module / "script.sh").write_text("apt-get install -y dcmtk\n")
        built = Environments(settings, {**os.environ, "UV_OFFLINE": "1"}).provide(module, "v")

        def find() -> None:
            environments = Environments(settings, os.environ)
            with environments.using(environments.provide(module, "v")):
                pass

        def cheapest() -> None:
            (module / "requirements.lock").read_bytes()
            os.access(built.python, os.X_OK)

        assert recipe(settings, module, "v").key == built.key
        found, least = milliseconds(find), milliseconds(cheapest)
    median, bare = statistics.median(found), statistics.median(least)
    size = len(lock()) // 1024
    print(f"a cached environment, its lock {size} KB: median {median:.2f} ms, p95 {found[int(TIMES * 0.95)]:.2f} ms")
    print(f"reading the lock and one look at the interpreter: median {bare:.3f} ms; ratio {median / bare:.0f}")
    if median > LIMIT_MS:
        print(f"over the limit of {LIMIT_MS:g} ms")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

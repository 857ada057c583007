"""What a callback that declines costs, its import included: 1,000 services, a study of 10 series.

    .venv/bin/python benchmarks/callbacks.py [--services 1000]

The services are installed, as in real life, and asked again and again; the best of ten rounds counts (at most 0.5 ms a
callback, with the start and end of the process they run in). Exit status 1 above it. Beside it, for orientation, stands
what a callback costs that imports `os`, and so has a process of its own.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dcm_processor.header_fields import DEFAULT_HEADER_FIELDS
from dcm_processor.manifest import Defaults
from dcm_processor.plan import order
from dcm_processor.store import Store
from dcm_processor.vocabulary import Level
from scheduler.callbacks import run_callbacks

LIMIT_MS = 0.5
SERIES = 10
CALLBACK = """
def callback(jobName, headers, params, added_params, **kwargs):
    return headers.get("Modality") == "XX"
"""


def installed(folder: Path, services: int, callback: str) -> Store:
    store = Store(folder / "registry", folder / "modules", Defaults(Level.STUDY, "default", ("default",)))
    source = folder / "source"
    for part in ("registry", "module"):
        (source / part).mkdir(parents=True)
    (source / "registry" / "callback.py").write_text(callback)
    (source / "module" / "worker.py").write_text("def worker(): pass\n")
    for number in range(services):
        name = f"svc{number:04d}"
        job = {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.callback"}
        (source / "registry" / "settings.json").write_text(json.dumps(job))
        store.install(name, source)
    return store


def headers() -> dict[str, Any]:
    elements = dict.fromkeys(DEFAULT_HEADER_FIELDS, "a value of some length")
    ids = [f"series-{number}" for number in range(SERIES)]
    series = [{"seriesId": each, "NumberOfInstances": 100, **elements} for each in ids]
    return {"patientId": "p", "studyId": "s", "seriesIds": ids, "dcmpath": "dicom/s", **elements, "series": series}


def cost(services: int, callback: str) -> float:
    """Milliseconds a callback."""
    with tempfile.TemporaryDirectory() as name:
        store = installed(Path(name), services, callback)
        registry = store.load()
        folders = store.registry_folders({job.service: job.digest for job in registry.jobs})
        jobs, study = order(registry), headers()
        rounds = []
        for _ in range(10):
            began = time.perf_counter()
            outcomes = run_callbacks(jobs, study, DEFAULT_HEADER_FIELDS, folders, 10)
            rounds.append(time.perf_counter() - began)
            assert not any(outcome.applies or outcome.error for outcome in outcomes.values())
    return min(rounds) / services * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    services = parser.parse_args().services
    own, each = cost(30, "import os\n" + CALLBACK), cost(services, CALLBACK)
    print(f"{services} callbacks that decline: {each:.3f} ms each (limit {LIMIT_MS} ms)")
    print(f"30 that decline, each in its own process: {own:.1f} ms each")
    return 0 if each <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())

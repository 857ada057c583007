"""What a program loads before it does anything: each start and each fork pays for it."""

import subprocess
import sys

import pytest

from dcm_processor.settings import CHECKOUT

PARSES_DICOM = {"pydicom", "numpy", "pynetdicom"}
MIGRATES = {"alembic"}
DRAWS = {"rich", "pygments"}
OTHER_DATABASES = {"sqlalchemy.dialects.postgresql"}
SERVES = PARSES_DICOM | MIGRATES | DRAWS | OTHER_DATABASES


@pytest.mark.parametrize(("program", "without"), [
    ("worker.worker", SERVES | {"sqlalchemy", "flask"}),
    ("scheduler.app", SERVES),
    ("scheduler.controller", SERVES | {"flask"}),
    ("dashboard.app", SERVES),
    ("dcm_processor.cli.stack", PARSES_DICOM | MIGRATES | {"flask"}),
    ("dcm_processor.cli.study", PARSES_DICOM | MIGRATES | {"flask", "sqlalchemy"}),
])  # fmt: skip
def test_a_program_loads_what_it_needs(program: str, without: set[str]) -> None:
    code = f"import sys, {program}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    assert not without & set(done.stdout.split())


def test_what_jobs_are_forked_from_brings_little_of_its_own() -> None:
    """The runner, the contract and the zygote, in a service's interpreter: each fork pays for their memory."""
    runner = CHECKOUT / "worker" / "runner.py"
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('runner', {str(runner)!r})\n"
        "runner = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(runner)\n"
        f"for file in {[str(CHECKOUT / 'dcm_processor' / 'contract.py'), str(runner.with_name('zygote.py'))]!r}:\n"
        "    runner.load(file)\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert "_dcm_processor_zygote" in loaded
    assert not {"zlib", "bz2", "lzma", "tempfile", "shutil", "subprocess", "inspect", "difflib", "logging"} & loaded

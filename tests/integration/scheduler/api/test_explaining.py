"""Explaining runs foreign code: in a process of its own, with a time limit, a few at a time."""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcm_processor.errors import (
    DcmProcessorError,
    OrthancUnavailableError,
    PermanentError,
    StudyGoneError,
    TransientError,
)
from scheduler.explaining import Explainer
from tests.integration.scheduler.api.stand import Installation, study_id
from tests.waiting import wait_until

STUDY = study_id(1)


def explainer(installation: Installation, program: str, **limits: float) -> Explainer:
    """One whose child is a piece of Python."""
    return Explainer(installation.settings, program=(sys.executable, "-c", program), **limits)  # type: ignore[arg-type]


def printing(**answer: object) -> str:
    return f"print({json.dumps(answer)!r})"


def test_the_plan_is_what_the_child_answers(installation: Installation) -> None:
    program = "import json, sys; print(json.dumps({'plan': {'studyId': json.load(sys.stdin)['studyId']}}))"
    assert explainer(installation, program)(STUDY) == {"studyId": STUDY}


def test_the_child_gets_the_same_settings(installation: Installation) -> None:
    program = """
import json, sys
from dcm_processor.settings import Settings
settings = Settings.model_validate(json.load(sys.stdin)["settings"])
print(json.dumps({"plan": settings.model_dump(mode="json")}))
"""
    assert explainer(installation, program)(STUDY) == installation.settings.model_dump(mode="json")


@pytest.mark.parametrize("error", [StudyGoneError, OrthancUnavailableError, PermanentError, DcmProcessorError])
def test_an_error_in_the_child_is_raised_here(installation: Installation, error: type[DcmProcessorError]) -> None:
    with pytest.raises(DcmProcessorError, match="why") as raised:
        explainer(installation, printing(error=error.__name__, message="why"))(STUDY)
    assert type(raised.value) is error


@pytest.mark.parametrize("name", ["SystemExit", "Nobody", "__doc__", ""])
def test_an_error_of_somebody_else_is_one_of_ours(installation: Installation, name: str) -> None:
    with pytest.raises(DcmProcessorError, match="why"):
        explainer(installation, printing(error=name, message="why"))(STUDY)


@pytest.mark.parametrize("program", ["", "print('Traceback')", "print([])", "import os; os.abort()", "exit(3)"])
def test_a_program_that_dies_or_babbles_is_no_answer(installation: Installation, program: str) -> None:
    with pytest.raises(RuntimeError, match="without an answer"):
        explainer(installation, program)(STUDY)


def test_what_takes_too_long_is_ended_with_all_it_started(installation: Installation, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(60)
"""
    with pytest.raises(TimeoutError, match=r"longer than 1.5 s"):
        explainer(installation, program, seconds=1.5)(STUDY)
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not alive(int(pid)), 5, "the process ended")  # type: ignore[misc]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_only_so_many_are_explained_at_once(installation: Installation, tmp_path: Path) -> None:
    go = tmp_path / "go"
    program = f"""
import os, time
while not os.path.exists({str(go)!r}): time.sleep(0.02)
{printing(plan={})}
"""
    explain = explainer(installation, program, at_once=2)
    refused = threading.Event()

    def ask(_: int) -> bool:
        try:
            explain(STUDY)
        except TransientError:
            refused.set()
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, number) for number in range(3)]
        assert refused.wait(10)
        go.touch()
        assert sorted(future.result(10) for future in asked) == [False, True, True]
    assert explain(STUDY) == {}


def test_the_real_child_answers(installation: Installation) -> None:
    """Nobody answers where Orthanc should be."""
    (installation.base / "secrets" / "orthanc_password").write_text("x")
    began = time.monotonic()
    with pytest.raises(OrthancUnavailableError):
        Explainer(installation.settings)(STUDY)
    assert time.monotonic() - began < 30

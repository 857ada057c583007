"""Whether a function is found and can be called: asked by import, and by the text of the files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcm_processor import contract, import_check

OFFERED = ["jobName", "headers"]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py" if name != "__init__" else "__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def asked(folder: Path, *functions: str) -> dict[str, str | None]:
    """What the program says, run as it is."""
    command = [sys.executable, "-I", import_check.__file__, contract.__file__, "svc", str(folder)]
    question = json.dumps({"functions": functions, "offered": OFFERED})
    done = subprocess.run(command, input=question, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def test_functions_that_are_there_have_no_fault_however_they_are_named(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        worker="import helper\nprint('noise')\ndef worker(jobName, **more): pass\n",
        helper="",
        tools__volume="class Volume:\n    @staticmethod\n    def measure(headers): pass\n",
    )
    functions = ["svc.worker", "svc.worker.worker", "svc.tools.volume.Volume.measure"]
    assert asked(folder, *functions) == dict.fromkeys(functions)
    assert [import_check.read(name, folder) for name in functions] == [None] * 3


def test_what_is_not_there_is_said_with_the_nearest_name(tmp_path: Path) -> None:
    folder = write(tmp_path, worker="def worker(): pass\n")
    [said] = asked(folder, "svc.wroker").values()
    assert said is not None
    assert "did you mean 'worker'?" in said
    assert import_check.read("svc.wroker", folder) == "no 'wroker' in worker.py"


def test_an_argument_that_cannot_be_given_is_said(tmp_path: Path) -> None:
    [said] = asked(write(tmp_path, worker="def worker(jobname): pass\n"), "svc.worker").values()
    assert said == "worker() requires 'jobname'; it can have jobName, headers; did you mean 'jobName'?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import nothing_of_the_kind\ndef worker(): pass\n",
            "No module named 'nothing_of_the_kind' (worker.py, line 1)",
        ),
        ("x = 1\nraise ValueError('no licence')\ndef worker(): pass\n", "ValueError: no licence (worker.py, line 2)"),
        ("def worker(:\n", "SyntaxError: "),
        ("import sys\nsys.exit(3)\ndef worker(): pass\n", "SystemExit: 3 (worker.py, line 2)"),
    ],
)
def test_what_importing_raises_is_said_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    [said] = asked(write(tmp_path, worker=text), "svc.worker.worker").values()
    assert said is not None
    assert says in said


def test_read_alone_a_file_that_is_no_python_is_said(tmp_path: Path) -> None:
    said = import_check.read("svc.worker", write(tmp_path, worker="def worker(:\n"))
    assert said is not None
    assert said.startswith("SyntaxError: ")
    assert said.endswith("(worker.py, line 1)")


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    from fast import worker\nexcept ImportError:\n    def worker(): pass\n",
        "if True:\n    def worker(): pass\n",
        "from .other import *\n",
        "worker = print\n",
    ],
)
def test_read_alone_a_name_may_get_its_meaning_in_any_way(tmp_path: Path, text: str) -> None:
    assert import_check.read("svc.worker", write(tmp_path, __init__=text)) is None


def test_read_alone_a_folder_without_python_is_said(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    assert import_check.read("svc.tools.worker", tmp_path) == "no 'worker' in tools/, which holds no Python file"

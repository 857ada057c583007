"""The runner, as far as it can be tested in our own interpreter; tests/integration/worker runs it in others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dcm_processor import contract
from worker import reaper, runner, zygote


@pytest.mark.parametrize("path", [runner.__file__, zygote.__file__, contract.__file__])
def test_a_service_may_have_an_older_python(path: str | None) -> None:
    assert path is not None
    ast.parse(Path(path).read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("module", [runner, reaper, zygote])
def test_it_needs_nothing_but_the_standard_library(module: object) -> None:
    path = str(getattr(module, "__file__", ""))
    tree = ast.parse(Path(path).read_text())
    imported = {a.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_the_two_sides_agree_on_what_they_say_and_where() -> None:
    """Runner and reaper share no import: each runs alone, in another interpreter."""
    assert runner.MESSAGES_FD == reaper.MESSAGES_FD
    assert runner.DUMP_SIGNAL == reaper.DUMP_SIGNAL
    assert runner.RETURNED_FD < zygote.CONTROL_FD  # which the reaper puts behind all that every command finds


def test_a_long_traceback_is_cut_in_the_middle() -> None:
    with pytest.raises(ValueError, match="xxx") as caught:
        raise ValueError("x" * 200_000)
    message = runner.describe(caught.value, transient=False, ours=())
    assert len(message["traceback"]) < 61_000
    assert message["traceback"].startswith("Traceback")
    assert "[…]" in message["traceback"]
    assert len(message["error"]) == 500


def test_an_error_is_one_line() -> None:
    message = runner.describe(ValueError("two\nlines"), transient=True, ours=())
    assert message["error"] == "ValueError: two lines"
    assert (message["class"], message["transient"], message["memory"]) == ("ValueError", True, False)


def test_files_of_the_service_come_after_the_standard_library_and_before_packages(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')\n")
    (tmp_path / "helper.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(runner.__file__).parent)!r}); import runner; del sys.path[0]\n"
        f"contract = runner.load({contract.__file__!r})\n"
        f"sys.modules.pop('json'); sys.path.append('/x/site-packages')\n"
        f"runner.make_importable(contract, 'svc', {str(tmp_path)!r}, [])\n"
        "import json, svc.helper, helper; print(sys.path[-2:])\n"
    )
    shown = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str([str(tmp_path), "/x/site-packages"])

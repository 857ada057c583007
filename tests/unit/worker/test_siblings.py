"""Which other services a module's code imports, as far as it is written out."""

from pathlib import Path

import pytest

from worker.siblings import imported


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import base", {"base"}),
        ("import base.tools as t, other", {"base", "other"}),
        ("def work():\n    from base.tools import x\n", {"base"}),
        ("from . import base\nfrom .base import x\n", set()),
        ("import importlib\nimportlib.import_module('ms-sub.tools')", {"importlib", "ms-sub"}),
        ("from importlib import import_module as i\nx = __import__('base')", {"importlib", "base"}),
        ("import_module(name)\n'base'\n# import base", set()),
        ("import base\nthis is no Python", set()),
        ("\0", set()),
    ],
)
def test_names_are_found_where_they_are_imported(tmp_path: Path, code: str, names: set[str]) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "work.py").write_text(code)
    assert imported(tmp_path) == names

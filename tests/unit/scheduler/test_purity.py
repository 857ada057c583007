"""What code may name and still be known to reach nothing but its arguments."""

from pathlib import Path

import pytest

from scheduler.purity import pure_code

SERVICES = Path(__file__).parents[3] / "services"


@pytest.mark.parametrize(
    "source",
    [
        "def callback(headers):\n    return headers.get('Modality') == 'MR'\n",
        "import re\nNAMES = re.compile('t1|t2', re.I)\n"
        "def callback(headers, **kwargs):\n    return bool(NAMES.search(headers.get('SeriesDescription', '')))\n",
        "from datetime import date\nfrom typing import Any\n_SEEN: list[Any] = []\n"
        "def _old(text: str) -> bool:\n    return date.fromisoformat(text) < date(2020, 1, 1)\n"
        "def callback(headers):\n    global _SEEN\n    _SEEN.append(1)\n    return _old(headers['StudyDate'])\n",
        "def callback(headers):\n"
        "    try:\n        n = sum(s['NumberOfInstances'] for s in headers['series'])\n"
        "    except KeyError as error:\n        raise ValueError(error.args) from None\n"
        "    found = {**headers, 'n': n}\n    found['n'] += 1\n    del found['n']\n"
        "    print(f'{n:>3}', [x for x in range(n)][1:], lambda: n)\n    return n > 3, {'n': n}\n",
        *[path.read_text() for name in ("temp", "dcm2nii") for path in (SERVICES / name / "registry").glob("*.py")],
    ],
)
def test_a_callback_that_only_looks_at_its_arguments_is_pure(source: str) -> None:
    code = pure_code(source.encode(), "callback.py")
    assert code is not None
    assert code.co_filename == "callback.py"


@pytest.mark.parametrize(
    "line",
    [
        "import os", "import json.decoder", "import os as re", "from re import sys", "from re import _parser",
        "from json import *", "from . import helper", "from .re import sub", "from typing import get_type_hints",
        "import re as open", "import re; re.functools", "import re; re.sub = None", "import re; del re.sub",
        "import re; re._cache.clear()", "import json; json.dumps += 1", "import datetime; datetime.sys",
        "open('x')", "getattr(1, 'real')", "exec('')", "eval('1')", "__import__('os')", "__builtins__", "__loader__",
        "f = open", "def eval(): pass", "def f(open): pass", "f = lambda exec: 1", "for open in (): pass",
        "[vars for vars in ()]", "global open", "(type := 1)", "try: pass\nexcept Exception as vars: pass",
        "().__class__", "(x for x in ()).gi_frame", "(lambda: 1).__globals__", "'{}'.format.__self__",
        "try: 1\nexcept Exception as e: e.__traceback__", "class A: pass", "with x: pass", "def f(): yield",
        "async def f(): pass", "match 1:\n  case int(real=x): pass", "@property\ndef f(): pass", "x.__dict__['a'] = 1",
        "def (", "x = '\0'",
    ],
)  # fmt: skip
def test_what_might_reach_further_is_not(line: str) -> None:
    assert pure_code(line.encode(), "callback.py") is None


def test_nothing_is_pure_that_python_cannot_hold() -> None:
    assert pure_code(b"x = " + b"(" * 5000 + b")" * 5000, "callback.py") is None
    assert pure_code(b"x = " + b"-" * 100_000 + b"1", "callback.py") is None

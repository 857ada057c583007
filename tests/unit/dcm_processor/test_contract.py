"""What a service's functions get, may return, and how they are found."""

import ast
import copy
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcm_processor import contract
from dcm_processor.contract import (
    AddedParams,
    Headers,
    ServiceFinder,
    call,
    interpret,
    is_transient,
    resolve,
    series_headers,
)

SERIES = ("11111111-22222222-33333333-44444444-55555555", "11111111-22222222-33333333-44444444-66666666")


# -- headers


@pytest.fixture
def missed() -> list[str]:
    return []


def headers_of(values: Mapping[str, Any], missed: list[str], selected: tuple[str, ...] = ("Modality",)) -> Headers:
    return Headers(values, selected, missed.append)


def test_headers_are_a_dict_that_services_can_store_and_print(missed: list[str]) -> None:
    values = {"Modality": "MR", "series": [{"seriesId": "a"}]}
    headers = headers_of(values, missed)
    assert headers == values
    assert isinstance(headers, dict)
    assert json.loads(json.dumps(headers)) == values
    assert {**headers} == values


def test_reading_a_keyword_that_is_not_selected_is_noted_once_however_it_is_read(missed: list[str]) -> None:
    headers = headers_of({"series": [{"seriesId": "a"}]}, missed)
    assert headers.get("EchoTime") is None
    assert headers.get("EchoTime", 3) == 3
    assert "RepetitionTime" not in headers
    with pytest.raises(KeyError, match="FlipAngle"):
        headers["FlipAngle"]
    assert headers["series"][0].get("SliceThickness") is None
    assert headers["series"][0].get("EchoTime") is None
    assert missed == ["EchoTime", "RepetitionTime", "FlipAngle", "SliceThickness"]


def test_what_is_there_selected_or_no_keyword_is_not_noted(missed: list[str]) -> None:
    headers = headers_of({"StudyDate": "", "series": []}, missed)
    assert headers["StudyDate"] == ""
    assert headers.get("Modality") is None  # selected, and absent in this study
    assert headers.get("seriesId") is None
    assert headers.get("0019,100A") is None
    assert headers.get("NumberOfInstances") is None
    assert ("Modality",) not in headers
    assert missed == []


@pytest.mark.parametrize("selected", [None, ("*",), ("Modality", "*")])
def test_nothing_is_noted_where_all_is_selected(selected: tuple[str, ...] | None, missed: list[str]) -> None:
    assert Headers({}, selected, missed.append).get("EchoTime") is None
    assert missed == []


def test_headers_can_go_to_another_process(missed: list[str]) -> None:
    headers = headers_of({"Modality": "MR", "series": [{"seriesId": "a"}]}, missed)
    for copied in (pickle.loads(pickle.dumps(headers)), copy.deepcopy(headers)):
        assert copied == headers
        assert type(copied) is dict


def test_a_series_job_finds_its_series_at_the_top() -> None:
    study = {"dcmpath": "dicom/s", "PatientID": "1", "series": [{"seriesId": "a"}, {"seriesId": "b", "dcmpath": "d/b"}]}
    view = series_headers(study, "b")
    assert (view["seriesId"], view["dcmpath"], view["PatientID"]) == ("b", "d/b", "1")
    assert view["series"] == study["series"]
    assert study["dcmpath"] == "dicom/s"
    with pytest.raises(KeyError):
        series_headers(study, "c")


# -- added_params


def added() -> AddedParams:
    return AddedParams(
        {"one": {"x": 1, "y": 1}, "two": {"y": 2}, "alone": {"z": 3}, "silent": {}},
        {"one": "svc", "two": "svc", "alone": "other", "silent": "quiet"},
    )


def test_added_params_iterate_by_job_each_once() -> None:
    params = added()
    assert list(params) == ["one", "two", "alone"]
    assert dict(params.items()) == {"one": {"x": 1, "y": 1}, "two": {"y": 2}, "alone": {"z": 3}}
    assert len(params) == 3
    assert json.loads(json.dumps(params))["alone"] == {"z": 3}


def test_a_look_up_takes_a_service_too_and_merges_its_jobs_in_plan_order() -> None:
    params = added()
    assert params["svc"] == {"x": 1, "y": 2}
    assert params.get("svc") == {"x": 1, "y": 2}
    assert "svc" in params
    assert params["svc"]["x"] == params["one"]["x"]


def test_what_injected_nothing_is_not_there() -> None:
    params = added()
    assert "silent" not in params
    assert "quiet" not in params
    assert params.get("quiet", "none") == "none"
    with pytest.raises(KeyError, match="quiet"):
        params["quiet"]


def test_where_a_job_is_named_like_its_service_its_own_values_win() -> None:
    params = AddedParams({"svc": {"a": 1}, "other": {"a": 2, "b": 2}}, {"svc": "svc", "other": "svc"})
    assert params["svc"] == {"a": 1, "b": 2}


def test_a_study_job_gets_series_jobs_of_a_service_merged_series_by_series() -> None:
    one = {SERIES[0]: {"x": 1}, SERIES[1]: {"x": 2}}
    two = {SERIES[1]: {"y": 3}}
    params = AddedParams({"one": one, "two": two}, {"one": "svc", "two": "svc"})
    assert params["svc"] == {SERIES[0]: {"x": 1}, SERIES[1]: {"x": 2, "y": 3}}
    assert params["one"] == one


def test_added_params_in_another_process_know_jobs_and_services() -> None:
    copied = pickle.loads(pickle.dumps(added()))
    assert type(copied) is dict
    assert copied["svc"] == {"x": 1, "y": 2}
    assert copied["one"] == {"x": 1, "y": 1}


# -- from a dotted name to a function

_number = itertools.count()


class Folders:
    """Service folders, each of a name no other test has imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finder = ServiceFinder({})

    def add(self, files: Mapping[str, str], name: str = "") -> str:
        name = name or f"contract_test_{next(_number)}"
        for path, text in files.items():
            (self.folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name / path).write_text(text)
        self.finder.folders[name] = str(self.folder / name)
        return name

    def resolve(self, dotted: str) -> Any:
        return resolve(dotted, self.folder / dotted.partition(".")[0])


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    made = Folders(tmp_path)
    sys.meta_path.insert(0, made.finder)
    yield made
    sys.meta_path.remove(made.finder)
    for name in made.finder.folders:
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]


@pytest.mark.parametrize(
    ("files", "dotted"),
    [
        ({"__init__.py": "def run(): return 'found'"}, "run"),
        ({"__init__.py": "from .work import run", "work.py": "def run(): return 'found'"}, "run"),
        ({"__init__.py": "", "work.py": "def run(): return 'found'"}, "run"),
        ({"work.py": "def run(): return 'found'"}, "run"),
        ({"run.py": "def run(): return 'found'"}, "run"),
        ({"run.py": "X = 1", "work.py": "run = lambda: 'found'"}, "run"),
        ({"run.py": "def run(): return 'found'", "other.py": "def run(): return 'other'"}, "run"),
        ({"work.py": "async def runs(): pass\ndef run(): return 'found'", "b.py": '"""\ndef run():\n"""'}, "run"),
        ({"work.py": "def run(): return 'found'"}, "work.run"),
        (
            {"storageManager.py": "class Manager:\n  @staticmethod\n  def run(): return 'found'"},
            "storageManager.Manager.run",
        ),
        ({"deep/er/work.py": "def run(): return 'found'"}, "deep.er.work.run"),
        ({"deep/work.py": "def run(): return 'found'"}, "deep.run"),
        ({"work.py": "from .helper import run", "helper.py": "def run(): return 'found'"}, "run"),
    ],
)
def test_a_dotted_name_leads_to_its_function(folders: Folders, files: dict[str, str], dotted: str) -> None:
    name = folders.add(files)
    assert folders.resolve(f"{name}.{dotted}")() == "found"


def test_a_service_with_a_hyphen_works(folders: Folders) -> None:
    name = folders.add(
        {"__init__.py": "from . import tools\ndef run(): return tools.X", "tools.py": "X = 1"}, "ms-sub-test"
    )
    assert folders.resolve(f"{name}.run")() == 1


def test_a_service_may_import_another(folders: Folders) -> None:
    other = folders.add({"shared.py": "X = 5"})
    name = folders.add({"work.py": f"from {other}.shared import X\ndef run(): return X"})
    assert folders.resolve(f"{name}.run")() == 5


@pytest.mark.parametrize(
    ("files", "dotted", "says"),
    [
        ({"a.py": "def runn(): pass"}, "run", "no 'run' in a.py; did you mean 'runn'?"),
        ({"a.py": "X = 1", "__init__.py": ""}, "run", "no 'run' in __init__.py, a.py"),
        ({"a.py": "def run(): pass", "b.py": "def run(): pass"}, "run", "could be in a.py, b.py; name the file"),
        ({"a.py": "run = 3"}, "run", "leads to no function"),
        ({"a.py": "def run(): pass"}, "b.run", "no 'b' in a.py"),
        ({"settings.json": "{}"}, "run", "holds no Python file"),
        ({"a.py": ""}, "", "names no function"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_looked_for_where(
    folders: Folders, files: dict[str, str], dotted: str, says: str
) -> None:
    name = folders.add(files)
    with pytest.raises(LookupError) as caught:
        folders.resolve(f"{name}.{dotted}")
    assert says in str(caught.value)


def test_a_name_that_leads_to_a_module_of_somebody_else_is_refused(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="rename the service"):
        resolve("json.loads", tmp_path)


@pytest.mark.parametrize("source", ["def run(:", "import no_such_module_at_all", "1 / 0"])
def test_what_importing_a_service_raises_comes_through(folders: Folders, source: str) -> None:
    name = folders.add({"work.py": f"{source}\ndef run(): pass\n"})
    with pytest.raises((SyntaxError, ImportError, ZeroDivisionError)):
        folders.resolve(f"{name}.run")


# -- calling


def test_a_function_gets_only_what_it_names() -> None:
    def few(b: int, a: int) -> tuple[int, int]:
        return a, b

    assert call(few, a=1, b=2, c=3) == (1, 2)


def test_kwargs_get_everything_and_defaults_stay() -> None:
    def everything(a: int, missing: int = 7, *rest: int, **kwargs: int) -> tuple[Any, ...]:
        return a, missing, rest, kwargs

    assert call(everything, a=1, b=2) == (1, 7, (), {"b": 2})


def test_methods_partials_and_decorated_functions_can_be_called() -> None:
    def decorated(function: Any) -> Any:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Thing:
        def method(self, a: int) -> int:
            return a

        def __call__(self, a: int) -> int:
            return a + 1

    assert call(Thing().method, a=1, b=2) == 1
    assert call(Thing(), a=1, b=2) == 2
    assert call(partial(lambda a, b: (a, b), b=9), a=1) == (1, 9)
    assert call(decorated(lambda a: a), a=1, b=2) == 1


def test_a_parameter_nobody_offers_is_named() -> None:
    with pytest.raises(TypeError, match=r"requires 'added_parms'; it can have .*; did you mean 'added_params'\?"):
        call(lambda added_parms: None, jobName="", added_params={})


async def _asynchronous(**kwargs: Any) -> None: ...


def _generator(**kwargs: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [_asynchronous, _generator])
def test_a_function_that_a_call_would_not_run_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="is async or has a `yield`, so a call of it does nothing"):
        call(function, jobName="a")


def test_a_parameter_by_position_only_is_named() -> None:
    with pytest.raises(TypeError, match="'headers' by position"):
        call(lambda headers, /: None, headers={})
    assert call(lambda x=1, /: x, headers={}) == 1


@given(
    positional=st.lists(st.sampled_from("abcd"), unique=True),
    defaults=st.integers(0, 4),
    named=st.lists(st.tuples(st.sampled_from("efgh"), st.booleans()), unique_by=lambda each: each[0]),
    takes=st.sampled_from([("", ""), ("*rest", ""), ("", "**kwargs"), ("*rest", "**kwargs")]),
    offered=st.sets(st.sampled_from("abcdefghxy")),
)
def test_the_usual_way_gives_what_the_full_one_does(
    positional: list[str], defaults: int, named: list[tuple[str, bool]], takes: tuple[str, str], offered: set[str]
) -> None:
    """Which asks `inspect`, and is asked where the usual one does not know."""
    first = len(positional) - defaults
    parts = [name + ("=0" if number >= first else "") for number, name in enumerate(positional)]
    parts += [takes[0] or "*"] * bool(takes[0] or named) + [name + ("=0" if default else "") for name, default in named]
    function = eval(f"lambda {', '.join([*parts, *filter(None, takes[1:])])}: dict(locals())")
    values = dict.fromkeys(offered, 1)
    usual = contract._usual(function, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "_usual", lambda *_: None)
        if usual is None:
            with pytest.raises(TypeError, match="requires"):
                call(function, **values)
        else:
            assert contract.fitting(function, values) == usual
    assert (usual is None) == bool({*positional[: max(first, 0)], *(name for name, has in named if not has)} - offered)


# -- what comes back


@pytest.mark.parametrize(
    ("returned", "meaning"),
    [
        (None, (False, {})),
        (True, (True, {})),
        (np.bool_(True), (True, {})),
        (np.array(False), (False, {})),
        ((True, {}), (True, {})),
        ([np.bool_(False), {"a": 1}], (False, {"a": 1})),
    ],
)
def test_what_a_callback_may_return(returned: Any, meaning: tuple[bool, dict[str, Any]]) -> None:
    applies, injected = interpret(returned)
    assert (applies, injected) == meaning
    assert type(applies) is bool


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (3, "an int"),
        (0, "an int"),
        (np.int64(1), "an int64"),
        ("True", "a str"),
        ({}, "a dict"),
        ((), "()"),
        ((True,), "(bool)"),
        ((True, None), "(bool, NoneType)"),
        ((True, {}, 1), "(bool, dict, int)"),
        ((True, {}, 1, 2), "(bool, dict, int, …)"),
        ((None, {}), "(NoneType, dict)"),
        (({}, True), "(dict, bool)"),
    ],
)
def test_anything_else_is_refused_in_words(returned: Any, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        interpret(returned)
    assert str(caught.value) == f"the callback returned {says}; expected True, False or (bool, dict)"


def test_the_dict_becomes_plain_json() -> None:
    _, injected = interpret(
        (
            True,
            {
                "n": np.float32(0.5),
                "i": np.int16(3),
                "b": np.bool_(True),
                "a": np.arange(3),
                "t": (1, (2,)),
                1: None,
                None: 2.5,
            },
        )
    )
    assert injected == {"n": 0.5, "i": 3, "b": True, "a": [0, 1, 2], "t": [1, [2]], "1": None, "null": 2.5}
    assert json.loads(json.dumps(injected, allow_nan=False)) == injected


def test_texts_and_numbers_of_other_classes_become_plain() -> None:
    class Uid(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "shown otherwise"

    _, injected = interpret((True, {"uid": Uid("1.2.3")}))
    assert injected == {"uid": "1.2.3"}
    assert type(injected["uid"]) is str


_LOOP: dict[str, Any] = {}
_LOOP["self"] = _LOOP


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": {"b": object()}}, "the returned dict['a']['b'] is an object"),
        ({"a": [1, Path()]}, "the returned dict['a'][1] is a "),
        ({"a": {1, 2}}, "is a set"),
        ({"a": b""}, "is a bytes"),
        ({"a": float("nan")}, "NaN or infinite"),
        ({"a": np.array([np.inf])}, "NaN or infinite"),
        ({"a": "x\0y"}, "not UTF-8 without NUL"),
        ({"a": "\ud800"}, "not UTF-8 without NUL"),
        ({(1, 2): 1}, "has (int, int) for a key"),
        (_LOOP, "contains itself"),
        ({"a": "x" * 1_000_001}, "over 1,000,000 characters"),
        ({"a": list(range(1_000_001))}, "over 1,000,000 characters"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value: dict[Any, Any], says: str) -> None:
    with pytest.raises(TypeError) as caught:
        interpret((True, value))
    assert says in str(caught.value)


def test_what_says_try_again() -> None:
    class TransientServiceError(Exception):
        pass

    class BusyError(TransientServiceError):
        pass

    assert is_transient(TransientServiceError())
    assert is_transient(BusyError())
    assert not is_transient(ValueError("TransientServiceError"))


# -- where it must run


def test_the_contract_needs_nothing_but_python_3_9() -> None:
    """A worker loads the file by its path into the interpreter of a service, whatever is installed there."""
    source = Path(contract.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    by_path = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('c', sys.argv[1]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "assert module.interpret((True, {})) == (True, {})"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", by_path, contract.__file__], check=True, timeout=30)

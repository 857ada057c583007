"""The service contract: everything a service's Python code meets of this platform, in one file.

A service brings two functions. Both are called by keyword; each gets only what it names, or all with
`**kwargs`:

    def callback(jobName, headers, params, added_params, **kwargs):  # in registry/: does the job apply?
        return headers.get("Modality") == "MR"  # or (True, {"for": "later jobs"})

    def worker(jobName, headers, params, added_params, **kwargs):  # in module/: the work itself
        ...  # kwargs: dicom_dir, output_dir, inputs, outcomes, …

`headers` is a `Headers`, `added_params` an `AddedParams`; both are dicts that know a little more. What a
callback may return is `interpret`; how `"<service>.<function>"` becomes a function is `resolve`; how it is
called, `call`.

The scheduler imports this file; a worker loads it by its path into the service's own interpreter, so it needs
nothing but the standard library of Python 3.9. What few jobs need is imported where they do: each job is the fork of a
process that holds this file, and pays for its memory.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import math
import os
import re
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Callable, Iterable, Mapping, Sequence  # noqa: UP035 - one place for all, as on Python 3.9

TRANSIENT_EXIT = 75
"""The exit status by which a worker function says "try again later" (EX_TEMPFAIL of sysexits.h)."""

MAX_INJECTED = 1_000_000
"""Characters, about, that a callback's dict may hold: it is kept with the plan and sent to every attempt."""

_KEYWORD = re.compile(r"[A-Z][A-Za-z0-9]*")
_OURS = frozenset({"NumberOfInstances"})  # looks like a DICOM keyword, but every series has it, whatever is selected
_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


# -- headers


class Headers(dict):  # type: ignore[type-arg]
    """The `headers` of a callback or worker function: a dict that notes what was read in vain.

    `selected` are the DICOM keywords of HEADER_FIELDS; None, or a `*` among them, selects all. Reading (`[]`,
    `get`, `in`) a keyword that is neither there nor selected calls `note(keyword)`, once a keyword, for the
    entries of `series` as well. A pickled or copied one is a plain dict.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        selected: Iterable[str] | None = None,
        note: Callable[[str], None] = lambda _keyword: None,
    ) -> None:
        super().__init__(values)
        wanted = None if selected is None else frozenset(selected) | _OURS
        noted: set[str] = set()

        def missed(key: object) -> None:
            if wanted is None or "*" in wanted or not isinstance(key, str) or key in wanted or key in noted:
                return
            if _KEYWORD.fullmatch(key):
                noted.add(key)
                note(key)

        self._missed = missed
        series = values.get("series")
        if isinstance(series, list):
            self["series"] = [self._entry(entry) if isinstance(entry, dict) else entry for entry in series]

    def _entry(self, values: dict[str, Any]) -> Headers:
        entry = Headers.__new__(Headers)
        dict.__init__(entry, values)
        entry._missed = self._missed
        return entry

    def __missing__(self, key: object) -> Any:
        self._missed(key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        if not found:
            self._missed(key)
        return found

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - this is `get`

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def series_headers(headers: Mapping[str, Any], series_id: str) -> dict[str, Any]:
    """The headers of a series job: its series' entries stand at the top, and `series` stays the full list.

    Raises KeyError where the study has no such series.
    """
    for entry in headers["series"]:
        if entry["seriesId"] == series_id:
            return {**headers, **entry}
    raise KeyError(series_id)


# -- added_params


class AddedParams(dict):  # type: ignore[type-arg]
    """The `added_params` of a callback or worker function: what callbacks returned beside their bool.

    `by_job` maps job names to dicts, in plan order; jobs that injected nothing are left out. `services` maps
    job names to services. Iteration yields job names, each once. A look-up (`[]`, `get`, `in`) also takes a
    service's name and gives its jobs' dicts merged in plan order; where a job has that name too, its own
    values win.

    In a study job a series job's dict is `{seriesId: dict}`; such dicts are merged series by series.
    A pickled one is a plain dict of jobs and services.
    """

    def __init__(self, by_job: Mapping[str, Mapping[str, Any]], services: Mapping[str, str]) -> None:
        super().__init__({job: params for job, params in by_job.items() if params})
        self._jobs_of: dict[str, list[str]] = {}
        for job in self:
            if job in services:
                self._jobs_of.setdefault(services[job], []).append(job)

    def __getitem__(self, name: str) -> Any:
        jobs = [job for job in self._jobs_of.get(name, []) if job != name]
        if super().__contains__(name):
            jobs.append(name)
        if len(jobs) == 1:
            return super().__getitem__(jobs[0])
        if not jobs:
            raise KeyError(name)
        merged: dict[str, Any] = {}
        for job in jobs:
            for key, value in super().__getitem__(job).items():
                before = merged.get(key)
                of_a_series = isinstance(before, dict) and isinstance(value, dict) and _ORTHANC_ID.fullmatch(key)
                merged[key] = {**before, **value} if of_a_series else value  # type: ignore[dict-item]
        return merged

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._jobs_of

    def get(self, name: Any, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - this is `get`

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({name: self[name] for name in [*self, *self._jobs_of]},)


# -- from a dotted name to a function


class ServiceFinder:
    """Makes each service's folder importable as a package named after the service.

    A finder to be put first into `sys.meta_path`. Names with a hyphen work, and `__init__.py` is optional. It has not
    the base class of finders, whose import brings zlib, bz2 and lzma into every process that a job is forked from.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = {service: str(folder) for service, folder in folders.items()}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> importlib.machinery.ModuleSpec | None:
        folder = self.folders.get(fullname)
        if folder is None or path is not None:
            return None
        init = os.path.join(folder, "__init__.py")  # noqa: PTH118 - asked for every import
        if os.path.isfile(init):  # noqa: PTH113
            return importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=[folder])
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [folder]
        return spec


def resolve(dotted: str, folder: Path) -> Callable[..., Any]:
    """The function that `dotted` names in a service's folder; a ServiceFinder has to know the service.

    `"<service>.<function>"` is looked for in `__init__.py`, then in the one Python file of the folder that
    defines it; `"<service>.<module>.<function>"`, and deeper, in that module.

    Raises LookupError that says what was looked for and where. What the service's code raises while it is
    imported (SyntaxError, ImportError …) comes through.
    """
    service, *names = dotted.split(".")
    if not names or not all(names):
        raise LookupError(f"{dotted!r} names no function; write it as '{service or 'service'}.function'")
    found: Any = importlib.import_module(service)
    if str(folder) not in [str(place) for place in getattr(found, "__path__", [])]:
        raise LookupError(f"the name {service!r} leads to {found!r}, not into {folder}; rename the service")
    for name in names[:-1]:
        place, found = found, _member(found, name)
        if found is None:
            raise LookupError(f"{dotted!r} leads nowhere: {_absence(place, name)}")
    function = _function(found, names[-1])
    if function is None:
        raise LookupError(f"{dotted!r} leads to no function: {_absence(found, names[-1])}")
    return function


def _member(place: Any, name: str) -> Any:
    """`place.name`, importing the submodule of that name where there is one; None where there is nothing."""
    value = getattr(place, name, None)
    if value is None and hasattr(place, "__path__"):
        submodule = f"{place.__name__}.{name}"
        if importlib.util.find_spec(submodule) is not None:
            value = importlib.import_module(submodule)
    return value


def _function(place: Any, name: str) -> Callable[..., Any] | None:
    """The function `name` of a module, class or package; a package's may lie in any of its files."""
    value = _member(place, name)
    if isinstance(value, ModuleType):  # worker.py with `def worker`
        value = getattr(value, name, None)
    if not callable(value) and hasattr(place, "__path__"):
        homes = [path for path in _python_files(place) if name in _defined(path)]
        if len(homes) > 1:
            files, better = ", ".join(path.name for path in homes), f"{place.__name__}.{homes[0].stem}.{name}"
            raise LookupError(f"{name!r} could be in {files}; name the file, as in {better!r}")
        for home in homes:
            value = getattr(importlib.import_module(f"{place.__name__}.{home.stem}"), name, None)
    return value if callable(value) else None


def _absence(place: Any, name: str) -> str:
    """What is missing where, with the nearest name that is there."""
    import difflib  # noqa: PLC0415 - see above

    where, known = repr(place), set(dir(place))
    if isinstance(place, ModuleType):
        files = [Path(place.__file__)] if place.__file__ else []
        files += _python_files(place)
        where = ", ".join(path.name for path in files) or f"{place.__name__}, which holds no Python file"
        known = {found for path in files for found in _defined(path)}
    nearest = difflib.get_close_matches(name, sorted(known), 1)
    return f"no {name!r} in {where}" + (f"; did you mean {nearest[0]!r}?" if nearest else "")


def _python_files(package: ModuleType) -> list[Path]:
    places = list(getattr(package, "__path__", []))
    names = [(place, name) for place in places for name in sorted(os.listdir(place))]  # noqa: PTH208 - faster
    return [Path(place, name) for place, name in names if name.endswith(".py") and name != "__init__.py"]


_DEFINITION = re.compile(rb"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE)


def _defined(path: Path) -> set[str]:
    """The names a file defines at its top level; parsed only where a multi-line text could look like code."""
    source = path.read_bytes()
    names = {(match[1] or match[2]).decode() for match in _DEFINITION.finditer(source)}
    if b'"""' not in source and b"'''" not in source:
        return names
    import ast  # noqa: PLC0415 - see above

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return names
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names & found


# -- calling it, and what comes back


def call(function: Callable[..., Any], **offered: Any) -> Any:
    """Call by keyword with what the function names of `offered`, or with all of it where it takes `**kwargs`.

    Raises TypeError that says which parameter cannot be given, or that a call alone would run nothing.
    """
    return function(**fitting(function, offered))


def fitting(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """What `call` gives a function; raises TypeError as it does."""
    if (usual := _usual(function, offered)) is not None:
        return usual
    import difflib  # noqa: PLC0415 - see above
    import inspect  # noqa: PLC0415

    later = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(kind(function) for kind in later):
        raise TypeError(
            f"{_name(function)} is async or has a `yield`, so a call of it does nothing; make it a plain function"
        )
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given = dict(offered)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            if parameter.default is parameter.empty:
                raise TypeError(f"{_name(function)} takes {name!r} by position, but gets it by name: drop the '/'")
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            if name in offered:
                given[name] = offered[name]
            elif parameter.default is parameter.empty:
                nearest = difflib.get_close_matches(name.replace("_", ""), offered, 1)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                raise TypeError(f"{_name(function)} requires {name!r}; it can have {', '.join(offered)}{hint}")
    return given


_UNUSUAL = 0x20 | 0x80 | 0x200  # generators and coroutines (inspect.CO_…)
_TAKES_ALL = 0x08  # **kwargs


def _usual(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any] | None:
    """`fitting` without `inspect`, of a plain function that gets all it requires; None: look more closely."""
    if type(function) is not FunctionType or vars(function):
        return None
    code, kept = function.__code__, function.__kwdefaults__ or {}
    if code.co_flags & _UNUSUAL or code.co_posonlyargcount:
        return None
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    optional = {*names[code.co_argcount - len(function.__defaults__ or ()) : code.co_argcount], *kept}
    if not all(name in offered or name in optional for name in names):
        return None
    return dict(offered) if code.co_flags & _TAKES_ALL else {name: offered[name] for name in names if name in offered}


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__qualname__', type(function).__name__)}()"


def interpret(returned: Any) -> tuple[bool, dict[str, Any]]:
    """What a callback's return value says: whether the job applies, and what it injects for later jobs.

    A bool (numpy's too), a tuple or list `(bool, dict)`, or None, which is False. The dict comes back as
    plain JSON values: numpy's scalars as numbers, its arrays and tuples as lists, keys as text.

    Raises TypeError that says what came instead; it never shows a value.
    """
    decision, injected = _unpacked(returned), {}
    if decision is None:
        return False, {}
    if isinstance(decision, (tuple, list)):
        if len(decision) != 2 or not isinstance(decision[1], dict):
            kinds = ", ".join(type(item).__name__ for item in decision[:3])
            raise TypeError(f"the callback returned ({kinds}{', …' if len(decision) > 3 else ''}); {_EXPECTED}")
        try:
            injected = _plain(decision[1], "the returned dict", [MAX_INJECTED])
        except RecursionError:
            raise TypeError("the returned dict contains itself, or is nested too deeply for JSON") from None
        decision = _unpacked(decision[0])
    if not isinstance(decision, bool):
        raise TypeError(f"the callback returned {_kind(returned)}; {_EXPECTED}")
    return decision, injected


_EXPECTED = "expected True, False or (bool, dict)"


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(type(item).__name__ for item in value)})"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _unpacked(value: Any) -> Any:
    """A numpy scalar or array as Python's own; anything else as it is."""
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _plain(value: Any, where: str, room: list[int]) -> Any:
    """The value in JSON's own types; `room` counts down the characters it may still hold."""
    value = _unpacked(value)
    room[0] -= len(value) if isinstance(value, str) else 1
    if room[0] < 0:
        raise TypeError(f"the returned dict holds over {MAX_INJECTED:,} characters; let the worker write a file")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\0" in value or not _encodes(value):
            raise TypeError(f"{where} holds text that is not UTF-8 without NUL")
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is NaN or infinite, which JSON does not have; use None")
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{position}]", room) for position, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, where, room): _plain(item, f"{where}[{key!r}]", room) for key, item in value.items()}
    raise TypeError(f"{where} is {_kind(value)}; JSON has str, numbers, bool, None, list and dict only")


def _key(key: Any, where: str, room: list[int]) -> str:
    if isinstance(key, (str, int, float, type(None))):
        key = _plain(key, f"a key of {where}", room)
        return key if isinstance(key, str) else json.dumps(key)
    raise TypeError(f"{where} has {_kind(key)} for a key; JSON's keys are text")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_transient(error: BaseException) -> bool:
    """Whether an error says "try again later": its class or a base class is named `TransientServiceError`."""
    return any(kind.__name__ == "TransientServiceError" for kind in type(error).__mro__)

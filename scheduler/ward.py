"""The inside of the process in which callbacks run: foreign code is imported and called here, and nowhere else.

It is told by number which callback to run, and answers each with one JSON object: `{"applies", "injected",
"error", "traceback", "missed", "last"}`. `missed` are header keywords that were read in vain and that
HEADER_FIELDS does not select; `last` says that something was left behind: this process is not to be asked
again.
"""

import contextlib
import faulthandler
import importlib
import json
import logging
import marshal
import os
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, cast

from dcm_processor import contract
from dcm_processor.plan import JobKey
from dcm_processor.registry import Job

NUMBER = struct.Struct("!I")
"""How pids, numbers of callbacks and lengths of answers are written."""
DUMP_SIGNAL = signal.SIGUSR2
"""Has this process write where it is to its stderr, even where it hangs."""
MAX_TRACEBACK = 20_000
"""Characters kept of a traceback."""

_ENVIRONMENT = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
_OUR_FILES = {__file__, contract.__file__}
_ABOUT_CODE = (ImportError, SyntaxError, NameError, AttributeError)  # their messages name code, not patients


class Ward:
    """Answers for `calls`; `injected` is what callbacks injected before these, `services` says whose each job is."""

    def __init__(
        self,
        calls: Sequence[tuple[Job, JobKey]],
        headers: dict[str, Any],
        selected: Sequence[str],
        *,
        folders: Mapping[str, Path],
        injected: Mapping[JobKey, Mapping[str, Any]],
        services: Mapping[str, str],
    ) -> None:
        self._calls = calls
        self._headers = marshal.dumps(headers)
        self._selected = frozenset(selected)
        self._folders = folders
        self._injected = {key: values for key, values in injected.items() if values}
        self._services = services
        self._functions: dict[str, Callable[..., Any]] = {}
        self._bare_names = _BareNames()

    def serve(self, conversation: socket.socket, output: int) -> None:
        """Answer until nobody asks any more."""
        _settle(output)
        sys.meta_path[:0] = [contract.ServiceFinder(self._folders), self._bare_names]
        tidiness = _Tidiness(output)
        conversation.sendall(NUMBER.pack(os.getpid()))
        while asked := conversation.recv(NUMBER.size):
            job, key = self._calls[NUMBER.unpack(asked)[0]]
            answer = self._answer(job, key)
            answer["last"] = not tidiness.kept()
            text = json.dumps(answer).encode()
            conversation.sendall(NUMBER.pack(len(text)) + text)
            if answer["last"]:
                return

    def _answer(self, job: Job, key: JobKey) -> dict[str, Any]:
        headers = marshal.loads(self._headers)  # noqa: S302 - our own dump: a deep copy at C's speed
        if key.series_id is not None:
            headers = contract.series_headers(headers, key.series_id)
        missed: list[str] = []
        arguments = {
            "jobName": job.settings.job_name,
            "headers": contract.Headers(headers, self._selected, missed.append),
            "params": _copy(job.settings.params),
            "added_params": contract.AddedParams(_copy(_seen_by(key, self._injected)), self._services),
        }
        answer: dict[str, Any] = {"applies": False, "injected": {}, "error": None, "traceback": None}
        try:
            with self._bare_names.of(self._folders.get(job.service)):
                returned = contract.call(self._function(job), **arguments)
            answer["applies"], answer["injected"] = contract.interpret(returned)
        except BaseException as error:  # noqa: BLE001 - foreign code may raise anything, SystemExit too
            answer["error"], answer["traceback"] = _told(error)
        if answer["injected"]:
            self._injected[key] = answer["injected"]
        return {**answer, "missed": missed}

    def _function(self, job: Job) -> Callable[..., Any]:
        dotted = job.settings.callback
        if dotted not in self._functions:
            if job.service not in self._folders:
                raise LookupError(f"the files of service {job.service} are not here")
            self._functions[dotted] = contract.resolve(dotted, self._folders[job.service])
        return self._functions[dotted]


class _BareNames(MetaPathFinder):
    """Lets the files of one service at a time import each other as if they lay beside a script: `import helper`.

    The modules are forgotten when the next service's turn comes, which may have files of the same names.
    """

    def __init__(self) -> None:
        self._folder: str | None = None
        self._found: list[str] = []

    @contextlib.contextmanager
    def of(self, folder: Path | None) -> Iterator[None]:
        self._folder = None if folder is None else str(folder)
        try:
            yield
        finally:
            for name in self._found:
                for module in [module for module in sys.modules if module.partition(".")[0] == name]:
                    del sys.modules[module]
            self._folder, self._found = None, []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or self._folder is None or fullname in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(fullname, [self._folder], target)
        if spec is None or spec.loader is None:
            return None
        self._found.append(fullname)
        return spec


def _copy(value: Any) -> Any:
    return marshal.loads(marshal.dumps(value))  # noqa: S302 - our own dump: a deep copy at C's speed


def _seen_by(key: JobKey, injected: Mapping[JobKey, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a job may see of the injected dicts, by job name (DESIGN 2, "Levels and dependencies").

    A series job sees those of its own series and of study jobs; a study job sees `{seriesId: dict}` of a series job.
    """
    seen: dict[str, dict[str, Any]] = {}
    for other, values in injected.items():
        if other.series_id is None or other.series_id == key.series_id:
            seen[other.job_name] = dict(values)
        elif key.series_id is None:
            seen.setdefault(other.job_name, {})[other.series_id] = values
    return seen


# -- what went wrong


def _told(error: BaseException) -> tuple[str, str | None]:
    """One line that holds no value a callback read, and the traceback from the service's first line on.

    The line may end in a log, and an exception's message may hold a patient's name, unless it is ours or about code.
    """
    frames, ours = error.__traceback__, True
    while frames is not None and frames.tb_frame.f_code.co_filename in _OUR_FILES | _IMPORTING:
        frames = frames.tb_next
    last, place = frames, ""
    while last is not None:
        code = last.tb_frame.f_code
        ours = code.co_filename in _OUR_FILES
        place = place if ours else f" ({Path(code.co_filename).name}, line {last.tb_lineno})"
        last = last.tb_next
    name = type(error).__name__
    if frames is None and not isinstance(error, SyntaxError):
        return str(error) if isinstance(error, LookupError | TypeError) else f"{name}: {error}", None
    if isinstance(error, SystemExit):
        line = f"the callback ended the interpreter: {name}{place}"
    elif ours or isinstance(error, _ABOUT_CODE):
        line = f"{name}: {' '.join(str(error).split())}{place}"
    else:
        line = f"the callback raised {name}{place}"
    told = "".join(traceback.TracebackException(type(error), error, frames, compact=True).format())
    if len(told) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        told = f"{told[:half]}\n[… {len(told) - 2 * half:,} characters cut …]\n{told[-half:]}"
    return line, told


_IMPORTING = {"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", importlib.__file__}


# -- the process itself


def _settle(output: int) -> None:
    """Give foreign code a process of little consequence: no input, its output to us, no secrets, first to be killed."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
    logging.getLogger().handlers.clear()
    sys.dont_write_bytecode = True
    for name in set(os.environ) - _ENVIRONMENT:
        if not name.startswith("LC_"):
            del os.environ[name]
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patient data
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    faulthandler.enable(sys.stderr)
    faulthandler.register(DUMP_SIGNAL, sys.stderr, all_threads=False)


def _stream(number: int, mode: str) -> TextIO:
    opened = os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    return cast("TextIO", opened)


class _Tidiness:
    """What a callback has to leave as it found it for the next one to run in the same process."""

    def __init__(self, output: int) -> None:
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._output = os.fstat(output).st_ino
        self._before = self._state()

    def kept(self) -> bool:
        """Whether all is as it was; flushes what was printed, and calls off alarms."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            return self._state() == self._before and _childless()
        except Exception:  # noqa: BLE001 - closed, replaced by anything, or its folder gone
            return False

    def _state(self) -> tuple[Any, ...]:
        streams = (sys.stdin, sys.stdout, sys.stderr) == self._streams
        outputs = [os.fstat(number).st_ino == self._output for number in (1, 2)]
        return streams, outputs, threading.active_count(), Path.cwd(), list(sys.path), dict(os.environ)


def _childless() -> bool:
    """Whether no process is left that this one, or a descendant that is gone, started."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False

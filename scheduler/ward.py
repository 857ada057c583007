"""The inside of the process in which callbacks run: foreign code is imported and called here, and nowhere else.

It is told by number which callback to run, and answers each with one JSON object: `{"applies", "injected",
"error", "traceback", "missed", "read", "last"}`. `missed` are header keywords that were read in vain and that
HEADER_FIELDS does not select; `read` are all looks at headers, where they are recorded; `last` says that something was
left behind: this process is not to be asked again.

Services whose code is pure (scheduler/purity.py) share a ward. Before any other code is run, `TAKEN` is said: from
then on the ward belongs to that code's service, and whatever it says is that service's word.
"""

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
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TextIO, cast

from dcm_processor import contract, process
from dcm_processor.plan import JobKey
from dcm_processor.registry import Job
from scheduler import reading
from scheduler.purity import pure_code
from scheduler.reading import Record, RecordedHeaders

NUMBER = struct.Struct("!I")
"""How pids, numbers of callbacks and lengths of answers are written."""
TAKEN = NUMBER.pack(0)
"""Said, in the place of an answer's length, before code runs that could reach more than it is given."""
DUMP_SIGNAL = signal.SIGUSR2
"""Has this process write where it is to its stderr, even where it hangs."""
MAX_MEMORY = 100_000
"""Kilobytes that a ward may have grown by and still be asked for another service."""
MAX_TRACEBACK = 20_000
"""Characters kept of a traceback."""

_ENVIRONMENT = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
_OUR_FILES = {__file__, contract.__file__, reading.__file__}
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
        recording: bool = False,
    ) -> None:
        self._calls = calls
        self._headers = marshal.dumps(headers)
        self._selected = frozenset(selected)
        self._folders = folders
        self._injected = {key: values for key, values in injected.items() if values}
        self._services = services
        self._recording = recording
        self._functions: dict[str, Callable[..., Any]] = {}
        self._code = _ServiceCode(folders)

    def serve(self, conversation: socket.socket, output: int) -> None:
        """Answer until nobody asks any more."""
        _settle(output)
        sys.meta_path.insert(0, self._code)
        self._code.said = lambda: conversation.sendall(TAKEN)
        tidiness = _Tidiness(output)
        conversation.sendall(NUMBER.pack(os.getpid()))
        while asked := conversation.recv(NUMBER.size):
            job, key = self._calls[NUMBER.unpack(asked)[0]]
            self._code.service = job.service
            answer = self._answer(job, key)
            answer["last"] = not tidiness.kept(self._code.taken)
            text = json.dumps(answer).encode()
            conversation.sendall(NUMBER.pack(len(text)) + text)
            if answer["last"]:
                return

    def _answer(self, job: Job, key: JobKey) -> dict[str, Any]:
        headers = marshal.loads(self._headers)  # noqa: S302 - our own dump: a deep copy at C's speed
        if key.series_id is not None:
            headers = contract.series_headers(headers, key.series_id)
        missed: list[str] = []
        record = Record()
        arguments = {
            "jobName": job.settings.job_name,
            "headers": RecordedHeaders(headers, self._selected, missed.append, record)
            if self._recording
            else contract.Headers(headers, self._selected, missed.append),
            "params": _copy(job.settings.params),
            "added_params": contract.AddedParams(_copy(_seen_by(key, self._injected)), self._services),
        }
        answer: dict[str, Any] = {"applies": False, "injected": {}, "error": None, "traceback": None}
        try:
            returned = contract.call(self._function(job), **arguments)
            answer["applies"], answer["injected"] = contract.interpret(returned)
        except BaseException as error:  # noqa: BLE001 - foreign code may raise anything, SystemExit too
            answer["error"], answer["traceback"] = _told(error)
        if answer["injected"]:
            self._injected[key] = answer["injected"]
        return {**answer, "missed": missed, "read": list(record.seen)}

    def _function(self, job: Job) -> Callable[..., Any]:
        dotted = job.settings.callback
        if dotted not in self._functions:
            if job.service not in self._folders:
                raise LookupError(f"the files of service {job.service} are not here")
            function = contract.resolve(dotted, self._folders[job.service])
            if str(getattr(function, "__module__", "")).partition(".")[0] != job.service:
                self._code.take()  # "service.os.abort" leads out of what was asked whether it is pure
            self._functions[dotted] = function
        return self._functions[dotted]


class _ServiceCode(MetaPathFinder):
    """Finds the code of services, and calls `said` once, before the first of it runs that is not pure.

    From then on only `service`, whose turn it is, is served here. Its files may import each other also as if they lay
    beside a script (`import helper`); pure ones import nothing of the kind.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._packages = contract.ServiceFinder(folders)
        self.said: Callable[[], None] = lambda: None
        self.service = ""
        self.taken = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = fullname.partition(".")[0]
        if package in self._folders:
            spec = self._packages.find_spec(fullname, path) or PathFinder.find_spec(fullname, path, target)
        elif path is None and self.service in self._folders and fullname not in sys.stdlib_module_names:
            spec = PathFinder.find_spec(fullname, [str(self._folders[self.service])], target)
        else:
            return None
        if spec is None or (spec.loader is None and fullname != package):
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader, self)
        elif spec.loader is not None:
            self.take()  # compiled code
        return spec

    def take(self) -> None:
        """What comes is not pure: have it meet nothing of what ran here before."""
        if self.taken:
            return
        self.taken = True
        for name in list(sys.modules):
            if (package := name.partition(".")[0]) in self._folders and package != self.service:
                del sys.modules[name]
        self.said()


class _Loader(SourceFileLoader):
    """Loads a service's file as Python does, once it is known whose the ward is."""

    def __init__(self, loader: SourceFileLoader, code: _ServiceCode) -> None:
        super().__init__(loader.name, loader.path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType | None:
        if not self._code.taken:
            pure = pure_code(self.get_data(self.path), self.path)
            if pure is not None:
                return pure
            self._code.take()
        return super().get_code(fullname)


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
    process.be_killed_first()
    process.limit_memory(None)  # a library may set aside more than it uses, and what a callback uses up ends it alone
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
        self._memory = _memory()
        self._before = self._state()

    def kept(self, taken: bool) -> bool:
        """Whether all is as it was; flushes what was printed, and calls off alarms. Pure code may keep memory alone."""
        if not taken:
            sys.stdout.flush()
            return _memory() < self._memory + MAX_MEMORY
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


def _memory() -> int:
    """Kilobytes that this process has had at most (getrusage(2): macOS counts bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def _childless() -> bool:
    """Whether no process is left that this one, or a descendant that is gone, started."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False

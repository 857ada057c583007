"""Runs one worker function, in the service's own interpreter (Python 3.9 or newer), as its own process.

The worker starts this file with `<environment>/bin/python -I runner.py CONTRACT SERVICE FOLDER [SIBLING=FOLDER…]`.
Nothing of the platform is importable from here: the service contract (`dcm_processor/contract.py`) is loaded by its
path, and `sys.path` holds the standard library, the service's own folder and its environment's packages. Other
services' packages are found where none of these has a module of their name.

With `--warm=FUNCTION` at the end it stops when that function's module is imported, and is forked for each job from then
on (worker/zygote.py).

What is to be done lies in the file open as descriptor 4 (`worker.run.task`); what happened goes to descriptor 3 as
lines of JSON: `begins`, and `raised` where the function, or the import of its module, raised. That the function has
returned is said by a byte to descriptor 5, where whoever waits for it hears it at once.
"""

import atexit
import contextlib
import faulthandler
import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

MESSAGES_FD = 3
TASK_FD = 4
RETURNED_FD = 5
BEGINS = b'{"kind": "begins"}\n'
DUMP_SIGNAL = signal.SIGUSR1
_LONGEST_TRACEBACK = 60_000
_LONGEST_MESSAGE = 500
_WARM = "--warm="


def load(path: str) -> Any:
    """A file of the platform as a module that has no name a service could clash with."""
    spec = importlib.util.spec_from_file_location(f"_dcm_processor_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make_importable(contract: Any, service: str, folder: str, siblings: "list[str]") -> None:
    """Have the service's folder act as a package of its name, and its files importable by their own names as well.

    The standard library comes before them, the environment's packages after, and after these the packages of other
    services (`NAME=FOLDER`).
    """
    sys.meta_path.insert(0, contract.ServiceFinder({service: Path(folder)}))
    packages = [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    sys.path.insert(sys.path.index(packages[0]) if packages else len(sys.path), folder)
    others = [each.partition("=") for each in siblings]
    sys.meta_path.append(contract.ServiceFinder({name: Path(place) for name, _, place in others}))


def parse(argv: "list[str]") -> "tuple[str, str, list[str], str | None]":
    """The service, its folder, its siblings, and the function to be kept warm, from the arguments given."""
    _contract, service, folder, *others = argv
    warm = [each.partition("=")[2] for each in others if each.startswith(_WARM)]
    return service, folder, [each for each in others if not each.startswith(_WARM)], warm[0] if warm else None


def arguments(contract: Any, task: "dict[str, Any]") -> "dict[str, Any]":
    """All that a worker function may name."""

    def note(keyword: str) -> None:
        print(
            f"[dcm-processor] headers[{keyword!r}] was read, but HEADER_FIELDS does not select it",
            file=sys.stderr,
        )

    headers = task["headers"]
    if task["seriesId"] is not None:
        headers = contract.series_headers(headers, task["seriesId"])
    return {
        "jobName": task["jobName"],
        "headers": contract.Headers(headers, task["selected"], note),
        "params": task["params"],
        "added_params": contract.AddedParams(task["addedParams"], task["jobServices"]),
        "dicom_dir": task["dicomDir"],
        "output_dir": task["outputDir"],
        "inputs": task["inputs"],
        "outcomes": task["outcomes"],
        "studyId": task["studyId"],
        "planId": task["planId"],
        "attempt": task["attempt"],
    }


class Messages:
    """A pipe to the platform's side.

    Forks of the service's own say nothing there, and nothing goes to what a service has put in its place.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid, self._pipe = os.getpid(), os.fstat(fd)

    def are_ours(self) -> bool:
        """Whether this is the process that was started for the job."""
        return os.getpid() == self._pid

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self.are_ours() and os.path.samestat(os.fstat(self._fd), self._pipe):
                while data:
                    data = data[os.write(self._fd, data) :]


def describe(error: BaseException, transient: bool, ours: "tuple[str, ...]") -> "dict[str, Any]":
    """An exception for the record: its class, one line, and the traceback from the first frame not in `ours`."""
    import traceback  # noqa: PLC0415 - costs milliseconds that a job without an error need not pay

    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a service's exception may be unable to say what it is
        text = ""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    try:
        whole = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - as above
        whole = name
    if len(whole) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        whole = f"{whole[:half]}\n[…]\n{whole[-half:]}"
    return {
        "kind": "raised",
        "class": name,
        "error": (f"{name}: {text}" if text else name)[:_LONGEST_MESSAGE],
        "traceback": whole,
        "transient": transient,
        "memory": isinstance(error, MemoryError),
    }


def leave(status: int) -> NoReturn:
    """End as Python does, but without taking the interpreter apart: wait for threads, run exit functions, flush."""
    for step in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - Python itself reports such errors and goes on
            with contextlib.suppress(Exception):
                print(f"Exception ignored at the end of the process: {type(error).__name__}", file=sys.stderr)
    os._exit(status)


def main() -> NoReturn:
    """Run the function and end."""
    contract = load(sys.argv[1])
    sys.dont_write_bytecode = True  # a version's folder stays as it was installed
    for fd in (MESSAGES_FD, TASK_FD, RETURNED_FD):
        os.set_inheritable(fd, False)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    service, folder, siblings, warm = parse(sys.argv[1:])
    make_importable(contract, service, folder, siblings)
    messages, returned = Messages(MESSAGES_FD), Messages(RETURNED_FD)
    status, function = 0, None
    try:
        if warm is not None:
            zygote = load(str(Path(__file__).with_name("zygote.py"))).Zygote()
            function = contract.resolve(warm, Path(folder))
            zygote.serve()
            messages, returned = Messages(MESSAGES_FD), Messages(RETURNED_FD)
        with os.fdopen(TASK_FD, encoding="utf-8") as file:
            task = json.load(file)
        if function is None:
            function = contract.resolve(task["function"], Path(folder))
        offered = arguments(contract, task)
        messages.send(BEGINS)
        contract.call(function, **offered)
        returned.send(b"!")
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        status = stop.code & 0xFF if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:  # noqa: BLE001 - whatever a service raises is its job's end
        status = 1
        if messages.are_ours():  # not in a fork of the service's own that came out here
            ours = (__file__, sys.argv[1], importlib.__file__)
            message = describe(error, contract.is_transient(error), ours)
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.write(message["traceback"])
            messages.send(json.dumps(message).encode() + b"\n")
    leave(status)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a process of multiprocessing (spawn, forkserver) that this one started
    make_importable(load(sys.argv[1]), *parse(sys.argv[1:])[:3])

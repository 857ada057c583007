"""What a callback can do to the scheduler: make its own job errored, and nothing else."""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from dcm_processor.manifest import Defaults, parse_manifest
from dcm_processor.plan import CallbackOutcome, JobKey, order
from dcm_processor.registry import combine
from dcm_processor.vocabulary import Level
from scheduler.callbacks import MAX_OUTPUT, run_callbacks
from scheduler.warden import Warden
from tests.waiting import wait_until

SERIES = ("a" * 8, "b" * 8)
HEADERS: dict[str, Any] = {
    "patientId": "p",
    "studyId": "s",
    "seriesIds": list(SERIES),
    "dcmpath": "dicom/s",
    "PatientName": "DOE^JOHN",
    "series": [
        {"seriesId": SERIES[0], "dcmpath": f"dicom/s/{SERIES[0]}", "Modality": "MR", "NumberOfInstances": 3},
        {"seriesId": SERIES[1], "dcmpath": f"dicom/s/{SERIES[1]}", "Modality": "SR", "NumberOfInstances": 1},
    ],
}
SELECTED = ("PatientName", "Modality", "SeriesDescription")


class Services:
    """Services made of the source of their callbacks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifests: dict[str, list[dict[str, Any]]] = {}

    def add(self, name: str, source: str, *jobs: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
        folder = self._folder / name
        folder.mkdir()
        for path, text in {"callbacks.py": source, **(files or {})}.items():
            (folder / path).write_text(text)
        self._manifests[name] = [
            {"jobName": name, "callback": f"{name}.callback", "worker": f"{name}.worker", **job}
            for job in jobs or ({},)
        ]

    def ask(
        self,
        headers: Mapping[str, Any] = HEADERS,
        selected: Sequence[str] = SELECTED,
        timeout: float = 20,
        *,
        recording: bool = False,
    ) -> dict[JobKey, CallbackOutcome]:
        defaults = Defaults(Level.STUDY, "default", ("default",))
        parsed = {name: parse_manifest(json.dumps(jobs), name, defaults) for name, jobs in self._manifests.items()}
        assert not any(each.faults for each in parsed.values())
        registry = combine((name, "0" * 32, each) for name, each in parsed.items())
        folders = {name: self._folder / name for name in parsed}
        return run_callbacks(order(registry), headers, selected, folders, timeout, recording=recording)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    folder = tmp_path / "registry"
    folder.mkdir()
    return Services(folder)


def study(name: str) -> JobKey:
    return JobKey(name, None)


GOOD = "def callback(jobName, headers, params, added_params, **kwargs):\n    return True, {'from': jobName}\n"


# -- what it may say


@pytest.mark.parametrize(
    ("returned", "applies", "injected"),
    [
        ("True", True, {}),
        ("False", False, {}),
        ("None", False, {}),
        ("(True, {'a': 1})", True, {"a": 1}),
        ("[False, {'a': [1, (2, 3)]}]", False, {"a": [1, [2, 3]]}),
        ("__import__('numpy').bool_(True)", True, {}),
        ("(__import__('numpy').bool_(False), {'a': __import__('numpy').float32(0.5)})", False, {"a": 0.5}),
    ],
)
def test_a_callback_answers_with_a_bool_or_a_bool_and_a_dict(
    services: Services, returned: str, applies: bool, injected: dict[str, Any]
) -> None:
    services.add("one", f"def callback():\n    return {returned}\n")
    outcome = services.ask()[study("one")]
    assert (outcome.applies, outcome.injected, outcome.error) == (applies, injected, None)


@pytest.mark.parametrize(
    "returned", ["3", "'yes'", "(True,)", "(True, None)", "(1, {})", "(True, {'a': object()})", "..."]
)
def test_any_other_answer_is_an_error_that_says_what_came(services: Services, returned: str) -> None:
    services.add("one", f"def callback():\n    return {returned}\n")
    services.add("two", GOOD)
    outcomes = services.ask()
    assert not outcomes[study("one")].applies
    assert "returned" in str(outcomes[study("one")].error)
    assert outcomes[study("two")].applies


def test_a_callback_gets_the_four_arguments_by_name_and_only_those_it_names(services: Services) -> None:
    services.add(
        "few", "def callback(params, jobName):\n    return True, {'got': [jobName, params]}\n", {"params": {"x": 1}}
    )
    services.add("all", "def callback(**kwargs):\n    return True, {'got': sorted(kwargs)}\n")
    outcomes = services.ask()
    assert outcomes[study("few")].injected == {"got": ["few", {"x": 1}]}
    assert outcomes[study("all")].injected == {"got": ["added_params", "headers", "jobName", "params"]}


def test_a_parameter_nobody_offers_is_an_error_that_names_it(services: Services) -> None:
    services.add("one", "def callback(jobname, **kwargs):\n    return True\n")
    error = services.ask()[study("one")].error
    assert error is not None
    assert "'jobname'" in error
    assert "did you mean 'jobName'?" in error


def test_disabled_jobs_are_not_asked(services: Services) -> None:
    services.add("off", "raise RuntimeError\n", {"disabled": True})
    assert services.ask() == {}


def test_a_series_job_is_asked_once_a_series_with_its_own_entries_at_the_top(services: Services) -> None:
    source = "def callback(headers):\n    return headers['Modality'] == 'MR', {'path': headers['dcmpath']}\n"
    services.add("each", source, {"level": "series"})
    outcomes = services.ask()
    assert {key.series_id: outcome.applies for key, outcome in outcomes.items()} == {SERIES[0]: True, SERIES[1]: False}
    assert outcomes[JobKey("each", SERIES[1])].injected == {"path": f"dicom/s/{SERIES[1]}"}


def test_added_params_hold_what_earlier_callbacks_said_as_the_asking_level_sees_it(services: Services) -> None:
    """Series of series: its own; study of series: by series; series of study: as it is; False hides nothing."""
    tell = "def callback(headers, added_params):\n    return True, {'saw': dict(added_params)}\n"
    services.add("a1", "def callback():\n    return False, {'n': 1}\n", {"sortPosition": 1})
    per_series = "def callback(headers):\n    return True, {'modality': headers['Modality']}\n"
    services.add("b2", per_series, {"sortPosition": 2, "level": "series"})
    services.add("c3", tell, {"sortPosition": 3, "level": "series"})
    services.add("d4", tell, {"sortPosition": 4})
    outcomes = services.ask()
    assert outcomes[JobKey("c3", SERIES[1])].injected["saw"] == {"a1": {"n": 1}, "b2": {"modality": "SR"}}
    seen = outcomes[study("d4")].injected["saw"]
    assert seen["b2"] == {SERIES[0]: {"modality": "MR"}, SERIES[1]: {"modality": "SR"}}
    assert list(seen) == ["a1", "b2", "c3"]


def test_added_params_are_looked_up_by_service_too(services: Services) -> None:
    services.add(
        "both",
        "def callback(jobName, params):\n    return True, params\n",
        {"jobName": "first", "params": {"x": 1, "y": 1}, "sortPosition": 1},
        {"jobName": "second", "params": {"y": 2}, "sortPosition": 2},
    )
    source = "def callback(added_params):\n    return 'both' in added_params, added_params.get('both', {})\n"
    services.add("later", source)
    assert services.ask()[study("later")].injected == {"x": 1, "y": 2}


# -- what it may do


def test_patient_b_never_meets_a_mutable_default_that_patient_a_filled(services: Services) -> None:
    source = "def callback(headers, seen=[]):\n    seen.append(headers['patientId'])\n    return True, {'seen': seen}\n"
    services.add("one", source)
    seen = [services.ask({**HEADERS, "patientId": patient})[study("one")].injected["seen"] for patient in "AB"]
    assert seen == [["A"], ["B"]]


def test_patient_b_never_sees_what_a_callback_did_to_its_arguments(services: Services) -> None:
    spoil = (
        "def callback(headers, params, added_params):\n"
        "    headers['PatientName'] = 'SPOILT'; headers['series'][0]['Modality'] = 'SPOILT'\n"
        "    params['list'].append(1); params['name'] = headers['patientId']\n"
        "    for values in added_params.values():\n        values['from'] = 'SPOILT'\n"
        "    return True, {'params': params}\n"
    )
    look = (
        "def callback(headers, added_params):\n    return True, {'headers': headers, 'added': added_params['first']}\n"
    )
    services.add("first", GOOD, {"sortPosition": 1})
    services.add("spoil", spoil, {"sortPosition": 2, "params": {"list": []}})
    services.add("look", look, {"sortPosition": 3})
    for patient in ("A", "B"):
        outcomes = services.ask({**HEADERS, "patientId": patient})
        assert outcomes[study("look")].injected["headers"] == {**HEADERS, "patientId": patient}
        assert outcomes[study("look")].injected["added"] == {"from": "first"}
        assert outcomes[study("spoil")].injected == {"params": {"list": [1], "name": patient}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("while True: pass", "no answer within 1 s"),
        ("__import__('time').sleep(3600)", "no answer within 1 s"),
        ("__import__('os')._exit(3)", "exit status 3"),
        ("__import__('os')._exit(0)", "exit status 0"),
        ("__import__('os').abort()", "SIGABRT"),
        ("__import__('ctypes').string_at(0)", "SIGSEGV"),
        ("__import__('os').kill(__import__('os').getpid(), 9)", "SIGKILL"),
        ("__import__('os').kill(__import__('os').getppid(), 9); __import__('time').sleep(60)", "process that kept it"),
        ("__import__('os').closerange(3, 4096)", "ended its process"),
        ("__import__('sys').exit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError('no')", "ValueError"),
        ("return 3", "returned an int"),
    ],
)
def test_whatever_ends_a_callback_makes_its_own_job_errored_and_nothing_else(
    services: Services, body: str, says: str
) -> None:
    services.add("before", GOOD, {"sortPosition": 1})
    services.add("bad", f"def callback():\n    {body}\n", {"sortPosition": 2})
    services.add(
        "after", "def callback(added_params):\n    return True, {'saw': list(added_params)}\n", {"sortPosition": 3}
    )
    outcomes = services.ask(timeout=1)
    assert says in str(outcomes[study("bad")].error)
    assert not outcomes[study("bad")].applies
    assert outcomes[study("before")].applies
    assert outcomes[study("after")].injected == {"saw": ["before"]}


@pytest.mark.parametrize("rubbish", ["b'x' * 100", "b'\\0\\0\\0\\3abc'", "b'\\0\\0\\0\\2{}'"])
def test_rubbish_in_the_socket_of_its_answer_is_the_callbacks_own_fault(services: Services, rubbish: str) -> None:
    source = (
        "import contextlib, os, stat\n"
        "def callback():\n"
        "    for number in range(3, 4096):\n"
        "        with contextlib.suppress(OSError):\n"
        "            if stat.S_ISSOCK(os.fstat(number).st_mode):\n"
        f"                os.write(number, {rubbish})\n"
        "    return True\n"
    )
    services.add("bad", source)
    services.add("good", GOOD)
    outcomes = services.ask()
    assert "socket that its answer goes through" in str(outcomes[study("bad")].error)
    assert outcomes[study("good")].applies


def test_where_a_callback_hung_is_kept(services: Services) -> None:
    services.add("bad", "def deep():\n    while True: pass\n\ndef callback():\n    deep()\n")
    title, *frames = services.ask(timeout=1)[study("bad")].output.splitlines()
    assert title == "Stack (most recent call first):"
    assert [frame.partition(", ")[2] for frame in frames] == ["line 2 in deep", "line 5 in callback"]


def test_where_a_callback_hung_deep_down_is_kept_without_our_frames(services: Services) -> None:
    source = "def deep(n):\n    while n == 0: pass\n    deep(n - 1)\n\ndef callback():\n    deep(60)\n"
    services.add("bad", source)
    output = services.ask(timeout=1)[study("bad")].output
    assert "in deep" in output
    assert "ward.py" not in output
    assert "pluggy" not in output


def test_a_callback_that_hangs_for_every_series_costs_its_time_twice_not_a_hundred_times(services: Services) -> None:
    ids = [f"{number:08x}" for number in range(100)]
    headers = {**HEADERS, "seriesIds": ids, "series": [{"seriesId": each} for each in ids]}
    services.add("bad", "def callback():\n    while True: pass\n", {"level": "series"})
    services.add("good", GOOD, {"sortPosition": 1000, "level": "series"})
    began = time.monotonic()
    outcomes = services.ask(headers, timeout=0.5)
    assert time.monotonic() - began < 20
    assert all(outcomes[JobKey("bad", each)].error for each in ids)
    assert all(outcomes[JobKey("good", each)].applies for each in ids)


def test_what_a_callback_prints_is_kept_and_megabytes_of_it_are_cut(services: Services) -> None:
    services.add(
        "some", "import sys\ndef callback():\n    print('hello'); sys.stderr.write('there')\n    return True\n"
    )
    source = (
        "import sys\ndef callback():\n    for _ in range(5000): sys.stdout.write('x' * 999 + '\\n')\n    return True\n"
    )
    services.add("much", source)
    outcomes = services.ask()
    assert outcomes[study("some")].output == "hello\nthere\n"
    assert outcomes[study("much")].applies
    assert "bytes cut" in outcomes[study("much")].output
    assert len(outcomes[study("much")].output) < MAX_OUTPUT + 200


def test_what_a_callback_prints_is_text_every_database_takes(services: Services) -> None:
    services.add("one", "import os\ndef callback():\n    os.write(1, b'a\\0b\\xff\\n')\n    return True\n")
    assert services.ask()[study("one")].output == "a\ufffdb\ufffd\n"


def test_one_that_prints_for_ever_is_cut_off_in_time(services: Services) -> None:
    services.add("bad", "import os\ndef callback():\n    while True: os.write(1, b'x' * 60000)\n")
    began = time.monotonic()
    assert "no answer" in str(services.ask(timeout=1)[study("bad")].error)
    assert time.monotonic() - began < 10


LEAVES = {
    "a closed stdout": "import sys; sys.stdout.close()",
    "no stdout": "import os; os.close(1); os.close(2)",
    "another stdout": "import sys, io; sys.stdout = io.StringIO()",
    "another folder": "import os; os.chdir('/tmp')",
    "another environment": "import os; os.environ['LEFT'] = 'behind'",
    "another path": "import sys; sys.path.insert(0, '/nowhere')",
    "an alarm": "import signal; signal.alarm(1)",
    "a thread": "import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()",
}


@pytest.mark.parametrize("left", LEAVES)
def test_what_a_callback_leaves_behind_does_not_meet_the_next(services: Services, left: str) -> None:
    services.add("leaves", f"def callback():\n    {LEAVES[left]}\n    return True\n", {"sortPosition": 1})
    check = (
        "import os, sys, threading, time\n"
        "def callback():\n"
        f"    time.sleep({1.2 if left == 'an alarm' else 0})\n"
        "    print('fine')\n"
        "    found = [os.getcwd(), 'LEFT' in os.environ, '/nowhere' in sys.path, threading.active_count()]\n"
        "    return True, {'found': found}\n"
    )
    services.add("next", check, {"sortPosition": 2})
    outcomes = services.ask()
    assert outcomes[study("leaves")].applies
    assert outcomes[study("next")].injected == {"found": ["/", False, False, 1]}
    assert outcomes[study("next")].output == "fine\n"


SOCKETS = """
def sockets():
    import contextlib, os, stat
    for number in range(3, 4096):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                yield number
"""
FORGED = (
    "text = json.dumps({'applies': True, 'injected': {'forged': 1}, 'error': None, 'traceback': None, 'missed': [],"
    " 'read': [], 'last': False}).encode();"
    " frame = len(text).to_bytes(4, 'big') + text; [os.write(n, END) for n in sockets()]"
)
MISDEEDS = {
    "warnings that raise": "import warnings; warnings.simplefilter('error')",
    "a patched json": "json.dumps = lambda *args, **kwargs: '{}'",
    "a patched marshal": "import marshal; marshal.loads = lambda _: {}",
    "a patched builtin": "import builtins; builtins.len = lambda _: 0",
    "a patched contract": "import dcm_processor.contract as c; c.interpret = lambda _: (True, {'forged': 1})",
    "a patched class": "import dcm_processor.contract as c; c.Headers.get = lambda *_: 'forged'",
    "a module of its own making": "import sys; sys.modules['statistics'] = None",
    "another locale": "import locale; locale.setlocale(locale.LC_ALL, 'C'); locale.str = None",
    "a file it gives back its name": "import sys; sys.modules['other.callbacks'] = sys.modules[__name__]",
    "another recursion limit": "import sys; sys.setrecursionlimit(60)",
    "an answer too many": FORGED.replace("END", "frame * 2"),
    "an answer in advance, and the ward disowned": FORGED.replace("END", "frame + bytes(4) + frame"),
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_what_a_service_does_to_its_process_meets_no_other_service(services: Services, misdeed: str) -> None:
    """Its own callbacks, before and after, may meet it; those of a service that is asked in between do not."""
    source = SOCKETS + f"import json, os\ndef callback():\n    {MISDEEDS[misdeed]}\n    return False\n"
    services.add("bad", source, *[{"jobName": f"bad{n}", "sortPosition": n} for n in (1, 3)])
    look = (
        "import statistics, warnings, json, sys\n"
        "def callback(headers):\n"
        "    warnings.warn('odd')\n"
        "    return True, {'saw': [headers['patientId'], headers.get('None', 0), json.dumps([len('ab')]),\n"
        "                          statistics.mean([1, 3]), sys.getrecursionlimit() > 900]}\n"
    )
    services.add("other", look, *[{"jobName": f"other{n}", "sortPosition": n} for n in (2, 4)])
    services.add(
        "pure", "def callback(headers):\n    return True, {'saw': headers['patientId']}\n", {"sortPosition": 5}
    )
    outcomes = services.ask()
    for n in (2, 4):
        assert outcomes[study(f"other{n}")].error is None
        assert outcomes[study(f"other{n}")].injected == {"saw": ["p", 0, "[2]", 2, True]}
    assert outcomes[study("pure")].injected == {"saw": "p"}


def test_a_sibling_that_is_imported_is_as_it_was_installed(services: Services) -> None:
    count = "SEEN = []\ndef callback():\n    SEEN.append(1)\n    return True\n"
    services.add("first", count, {"sortPosition": 1})
    look = "import first.callbacks\ndef callback():\n    return True, {'saw': first.callbacks.SEEN}\n"
    services.add("second", look, {"sortPosition": 2})
    assert services.ask()[study("second")].injected == {"saw": []}


def test_services_that_can_do_nothing_to_it_share_a_process(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Warden] = []

    def start(target: Callable[[], None], keep: Sequence[int]) -> Warden:
        started.append(Warden(target, keep))
        return started[-1]

    monkeypatch.setattr("scheduler.callbacks.Warden", start)
    for number in range(9):
        services.add(f"pure{number}", GOOD, {"sortPosition": number})
    services.add("os1", "import os\n" + GOOD, *[{"jobName": f"os1{n}", "sortPosition": 10 + n} for n in range(3)])
    services.add("os2", "import os\n" + GOOD, {"sortPosition": 20})
    outcomes = services.ask()
    assert all(outcome.applies for outcome in outcomes.values())
    assert len(started) == 2  # the first not pure one has the pure ones' process from then on


def test_a_service_that_fills_the_memory_does_it_to_itself(services: Services) -> None:
    services.add("fat", "KEPT = []\ndef callback():\n    KEPT.append('x' * 300_000_000)\n    return True\n")
    size = "import resource\ndef callback():\n    return True, {'kb': resource.getrusage(0).ru_maxrss}\n"
    services.add("next", size, {"sortPosition": 1000})
    ours = psutil.Process().memory_info().rss // 1024  # with which a process of the callbacks begins
    assert services.ask()[study("next")].injected["kb"] < ours + 200_000


DAEMON = """
import os, sys, time
def callback(params):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.closerange(0, 100)
            with open(params["pids"], "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(3600)
        os._exit(0)
    while not os.path.exists(params["pids"]):
        time.sleep(0.01)
    END
"""


@pytest.mark.parametrize(
    "end", ["return True", "os._exit(1)", "time.sleep(3600)", "os.kill(os.getpid(), 9)", "raise RuntimeError"]
)
def test_no_daemon_of_a_callback_survives_it(services: Services, tmp_path: Path, end: str) -> None:
    services.add("bad", DAEMON.replace("END", end), {"params": {"pids": str(tmp_path / "pids")}})
    services.add("after", GOOD)
    outcomes = services.ask(timeout=2)
    assert outcomes[study("after")].applies
    assert not Path("/proc", (tmp_path / "pids").read_text().strip()).exists()


def test_no_process_of_ours_is_left(services: Services) -> None:
    before = set(psutil.Process().children())
    services.add("bad", "import os\ndef callback():\n    os._exit(1)\n")
    services.add("good", GOOD)
    services.ask()
    assert set(psutil.Process().children()) == before


def test_if_the_planner_is_killed_its_callbacks_and_what_they_started_go_too(
    services: Services, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    services.add("bad", DAEMON.replace("END", "time.sleep(3600)"), {"params": {"pids": str(pids)}})
    planner = os.fork()
    if planner == 0:
        try:
            services.ask(timeout=60)
        finally:
            os._exit(1)
    wait_until(lambda: pids.exists() and pids.read_text().strip(), what="the daemon")
    os.kill(planner, signal.SIGKILL)
    os.waitpid(planner, 0)
    wait_until(lambda: not Path("/proc", pids.read_text().strip()).exists(), what="the daemon's end")


def test_a_callback_has_no_input_no_secrets_and_none_of_our_files(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@host")
    monkeypatch.setenv("ORTHANC_REST_PASSWORD", "secret")
    source = (
        "import os, sys\n"
        "def callback():\n"
        "    names = [name for name in os.listdir('/dev/fd')]\n"
        "    ours = [os.readlink('/dev/fd/' + n) for n in names if os.path.exists('/dev/fd/' + n)]\n"
        "    return True, {'in': sys.stdin.read(), 'env': sorted(os.environ), 'files': ours}\n"
    )
    services.add("one", source)
    with (tmp_path / "ledger").open("w"):
        injected = services.ask()[study("one")].injected
    assert injected["in"] == ""
    assert not {"REDIS_URL", "ORTHANC_REST_PASSWORD"} & set(injected["env"])
    assert not [name for name in injected["files"] if "ledger" in name]


# -- what is told of it


def test_a_service_that_cannot_be_imported_makes_its_jobs_errored_with_the_traceback(services: Services) -> None:
    services.add("syntax", "def callback(:\n    pass\n")
    services.add("missing", "import no_such_module\ndef callback():\n    return True\n")
    services.add("raises", "1 / 0\ndef callback():\n    return True\n")
    services.add("good", GOOD)
    outcomes = services.ask()
    assert "SyntaxError" in str(outcomes[study("syntax")].error)
    assert "callbacks.py" in str(outcomes[study("syntax")].traceback)
    assert "No module named 'no_such_module'" in str(outcomes[study("missing")].error)
    assert "import no_such_module" in str(outcomes[study("missing")].traceback)
    assert "ZeroDivisionError" in str(outcomes[study("raises")].error)
    assert outcomes[study("good")].applies


def test_a_callback_that_is_not_there_is_said_with_the_nearest_name(services: Services) -> None:
    services.add("one", "def calback():\n    return True\n")
    outcome = services.ask()[study("one")]
    assert "did you mean 'calback'?" in str(outcome.error)
    assert outcome.traceback is None


def test_a_traceback_begins_in_the_service_and_holds_no_values(services: Services) -> None:
    services.add(
        "one",
        "def inner(name):\n    return len(name) / 0\n\ndef callback(headers):\n    inner(headers['PatientName'])\n",
    )
    outcome = services.ask()[study("one")]
    assert outcome.error == "the callback raised ZeroDivisionError (callbacks.py, line 2)"
    assert outcome.traceback is not None
    assert outcome.traceback.splitlines()[0] == "Traceback (most recent call last):"
    assert "callbacks.py" in outcome.traceback.splitlines()[1]
    assert "DOE" not in outcome.traceback


def test_the_error_line_never_repeats_a_value_but_says_what_is_about_the_code(services: Services) -> None:
    """The line may end in a log; an exception's own words may hold a patient's name."""
    services.add("value", "def callback(headers):\n    int(headers['PatientName'])\n")
    services.add("key", "def callback(headers):\n    headers['EchoTime']\n")
    services.add("name", "def callback(headers):\n    return modality == 'MR'\n")
    outcomes = services.ask()
    assert outcomes[study("value")].error == "the callback raised ValueError (callbacks.py, line 2)"
    assert outcomes[study("key")].error == "KeyError: 'EchoTime' (callbacks.py, line 2)"
    assert outcomes[study("name")].error == "NameError: name 'modality' is not defined (callbacks.py, line 2)"


def test_endless_recursion_gives_a_traceback_that_can_be_kept(services: Services) -> None:
    source = "def a():\n    b()\ndef b():\n    a()\ndef callback():\n    a()\n"
    services.add("bad", source)
    outcome = services.ask()[study("bad")]
    assert "RecursionError" in str(outcome.error)
    assert len(str(outcome.traceback)) < 25_000


def test_reading_a_keyword_that_is_not_selected_is_noted(services: Services) -> None:
    source = (
        "def callback(headers):\n"
        "    print('asked')\n"
        "    headers.get('EchoTime'); headers.get('EchoTime'); headers.get('SeriesDescription')\n"
        "    headers['series'][0].get('Modalty')\n"
        "    return 'NumberOfInstances' in headers\n"
    )
    services.add("one", source)
    assert services.ask()[study("one")].output == (
        "asked\n"
        "note: HEADER_FIELDS does not select 'EchoTime'\n"
        "note: 'Modalty' is no DICOM keyword; did you mean 'Modality'?\n"
    )
    assert services.ask(selected=("*",))[study("one")].output == "asked\n"


def test_files_of_a_service_import_each_other_by_bare_names_and_never_another_services(services: Services) -> None:
    source = "import helper, json\n\ndef callback():\n    return True, {'whose': helper.WHOSE, 'json': json.__name__}\n"
    for name in ("one", "two"):
        services.add(name, source, files={"helper.py": f"WHOSE = {name!r}\n", "json.py": "1 / 0\n"})
    services.add("none", "import helper\n\ndef callback():\n    return True\n")
    outcomes = services.ask()
    assert [outcomes[study(name)].injected["whose"] for name in ("one", "two")] == ["one", "two"]
    assert "No module named 'helper'" in str(outcomes[study("none")].error)


def test_services_may_import_their_own_files_and_each_other(services: Services) -> None:
    services.add("base", "", {"disabled": True}, files={"shared.py": "ANSWER = 42\n", "__init__.py": ""})
    imports = "from . import helper\nimport base.shared\n\n"
    source = imports + "def callback():\n    return helper.yes(), {'a': base.shared.ANSWER}\n"
    services.add("ms-sub", source, files={"helper.py": "def yes():\n    return True\n"})
    assert services.ask()[study("ms-sub")].injected == {"a": 42}

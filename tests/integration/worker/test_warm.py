"""Jobs of a function whose module stays imported: what they share, and what they never do."""

import json
import os
import signal
import socket
import subprocess
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.outcome import Outcome
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import Stand, command_of, gone, horse_of
from tests.waiting import wait_until
from worker.contained import Command, End
from worker.reaper import family
from worker.warm import Kept, Warm

COUNTS = """
import os, pathlib
print("imported")
state = []
def work(output_dir):
    state.append(1)
    print("state", len(state))
    pathlib.Path(output_dir, "import").write_text(str(IMPORTED_BY))
IMPORTED_BY = os.getpid()
"""
WAITS = """
import os, pathlib, subprocess, sys, time
DAEMON = "import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
def work(output_dir, attempt):
    subprocess.run([sys.executable, "-c", DAEMON])
    pathlib.Path(output_dir, "runs").write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(600)
def quick():
    pass
"""


def run(stand: Stand, number: int, **values: Any) -> Outcome:
    """The end of the stand's n-th job."""
    outcome = stand.outcome(stand.enqueue(f"job-{number}", **values))
    assert not [line for line in stand.worker_log() if line.get("level") == "error" and "died" not in line["message"]]
    return outcome


def runs(stand: Stand, number: int) -> tuple[int, int]:
    """The pids of the n-th job, which has started a daemon, and of its keeper."""
    job, keeper = map(int, stand.written("runs", f"job-{number}").split())
    return job, keeper


def zygote_of(job: int, keeper: int) -> int:
    """The child of a keeper that has imported what the job needs: the command line is the same."""
    command = command_of(job)
    children = [pid for pid, each in family(keeper).items() if each.parent == keeper and pid != job]
    (found,) = [pid for pid in children if command_of(pid) == command]
    return found


def kept(worker: "subprocess.Popen[bytes]") -> set[int]:
    """The processes that an idle worker keeps, beside the horse to come."""
    return set(family(worker.pid)) - {horse_of(worker)}


def with_module(worker: "subprocess.Popen[bytes]") -> list[int]:
    """The processes that an idle worker keeps with the module imported: a zygote, then the fork that waits."""

    def found() -> list[int]:
        all_kept = kept(worker)
        own = sorted(pid for pid in all_kept if b"runner.py" in command_of(pid))
        return own if len(all_kept) == 3 and len(own) == 2 else []

    return wait_until(found, what="a keeper, its zygote and a fork")


def test_the_second_job_is_warm_and_has_nothing_of_the_first(stand: Stand) -> None:
    stand.service(COUNTS)
    stand.start()
    assert [run(stand, n).details["warm"] for n in range(3)] == [False, True, True]
    assert len({stand.written("import", f"job-{n}") for n in range(3)}) == 1
    assert [stand.log(f"job-{n}") for n in range(3)] == ["imported\nstate 1\n"] * 3


def test_warm_false_imports_for_each_job(stand: Stand) -> None:
    stand.service(COUNTS)
    worker = stand.start()
    assert [run(stand, n, warm=False).details["warm"] for n in range(2)] == [False, False]
    assert stand.written("import", "job-0") != stand.written("import", "job-1")
    wait_until(lambda: not kept(worker), what="nothing is kept")


def test_a_new_version_is_imported_anew_and_the_old_process_goes(stand: Stand) -> None:
    stand.service(COUNTS)
    stand.service(COUNTS.replace('"imported"', '"newer"'), digest="1" * 32)
    worker = stand.start()
    run(stand, 0)
    before = kept(worker)
    assert run(stand, 1, digest="1" * 32).details["warm"] is False
    assert stand.log("job-1") == "newer\nstate 1\n"
    wait_until(lambda: not before & kept(worker) and len(kept(worker)) == 3, what="the old one is gone")


def test_a_fork_is_a_process_as_any_job_is(stand: Stand) -> None:
    """Session, limits, descriptors, folders; what Python draws at random is not what the job before drew."""
    stand.service(
        """
        import json, os, pathlib, random, resource, sys, tempfile
        def work(output_dir):
            pathlib.Path("scratch").write_text("")
            os.close(tempfile.mkstemp()[0])
            fds = {}
            for fd in os.listdir("/proc/self/fd"):
                try: fds[fd] = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
                except OSError: pass
            found = {
                "leads": os.getsid(0) == os.getpid(), "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
                "oom": pathlib.Path("/proc/self/oom_score_adj").read_text().strip(), "fds": fds,
                "cwd": os.listdir("."), "tmp": len(os.listdir(os.environ["TMPDIR"])), "main": sys.argv[2],
                "same": os.path.realpath(tempfile.gettempdir()) == os.path.realpath("tmp"),
            }
            pathlib.Path(output_dir, "found").write_text(json.dumps(found))
            pathlib.Path(output_dir, "drawn").write_text(str(random.random()))
        """
    )
    stand.start()
    assert [run(stand, n, warm=n > 0).details["warm"] for n in range(4)] == [False, False, True, True]
    found = [stand.written("found", f"job-{n}") for n in range(4)]
    assert found[0] == found[2] == found[3]
    assert '"tmp": 1' in found[3]
    assert '"same": true' in found[3]
    assert len({stand.written("drawn", f"job-{n}") for n in range(4)}) == 4


def test_what_the_module_seeds_stays_seeded(stand: Stand) -> None:
    stand.service(
        """
        import pathlib, random
        random.seed(7)
        def work(output_dir):
            pathlib.Path(output_dir, "drawn").write_text(str(random.random()))
        """
    )
    stand.start()
    assert [run(stand, n).details["warm"] for n in range(3)] == [False, True, True]
    assert len({stand.written("drawn", f"job-{n}") for n in range(3)}) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads"),
        ("import subprocess; CHILD = subprocess.Popen(['sleep', '60'])", "leaves a process running"),
        ("import subprocess; subprocess.run(['sh', '-c', 'sleep 60 &'])", "leaves a process running"),
        ("FILE = open(__file__)", "open, which all forks would share"),
        ("import socket; SOCKET = socket.socket()", "open, which all forks would share"),
        ("import mmap; SHARED = mmap.mmap(-1, 4096)", "memory that all forks would share"),
        ("import os; os.chdir('/')", "working directory"),
        ("open('left', 'w').close()", "working directory"),
        ("import tempfile; FOLDER = tempfile.mkdtemp()", "working directory"),
        ("import signal; signal.alarm(60)", "timer"),
        ("import fakes; import sys; sys.modules['torch'] = fakes", "initialises CUDA"),
    ],
)
def test_what_cannot_be_forked_is_run_cold_and_says_why(stand: Stand, code: str, why: str) -> None:
    stand.service(
        f"{code}\ndef work():\n    print('done')\n",
        fakes="class cuda:\n    @staticmethod\n    def is_initialized():\n        return True\n",
    )
    worker = stand.start()
    for number in range(2):
        outcome = run(stand, number)
        assert (outcome.exitReason, outcome.details["warm"]) == (ExitReason.DONE, False)
        first, second = stand.log(f"job-{number}").splitlines()
        assert first.startswith("[dcm-processor: not kept warm: its import ")
        assert why in first
        assert second == "done"
    wait_until(lambda: not kept(worker), what="nothing is kept")


def test_an_import_that_fails_ends_the_job_as_ever(stand: Stand) -> None:
    stand.service("print('before')\nraise ValueError('broken')\n")
    worker = stand.start()
    for number in range(2):
        outcome = run(stand, number)
        assert (outcome.exitReason, outcome.error) == (ExitReason.EXCEPTION, "ValueError: broken")
        assert "raise ValueError" in str(outcome.traceback)
        assert "zygote" not in str(outcome.traceback)
        assert stand.log(f"job-{number}").startswith("before\nTraceback")
    wait_until(lambda: not kept(worker), what="nothing is kept")


@pytest.mark.parametrize("code", ["os._exit(3)", "os.kill(os.getpid(), 11)"])
def test_an_import_that_crashes_is_the_jobs_end(stand: Stand, code: str) -> None:
    stand.service(f"import os\n{code}\ndef work():\n    pass\n")
    stand.start()
    assert run(stand, 0).exitReason in (ExitReason.EXIT, ExitReason.SIGNAL)
    assert run(stand, 1).exitReason in (ExitReason.EXIT, ExitReason.SIGNAL)


def test_ends_are_the_same_as_those_of_cold_jobs(stand: Stand) -> None:
    """After a first job that warms it: raised, exit status, signal, time-out with where it was, too much memory."""
    stand.service(
        """
        import os, time
        def work(params):
            exec(params["code"])
        """
    )
    worker = stand.start()
    run(stand, 0, params={"code": "pass"})
    imported = with_module(worker)[0]
    ends = [
        ("raise ValueError('no')", {}, ExitReason.EXCEPTION),
        ("raise SystemExit(4)", {}, ExitReason.EXIT),
        ("raise SystemExit(75)", {}, ExitReason.TRANSIENT),
        ("os.kill(os.getpid(), 11)", {}, ExitReason.SIGNAL),
        ("os.kill(os.getpid(), 9)", {}, ExitReason.LOST),
        ("time.sleep(60)", {"timeout": 0.3}, ExitReason.TIMEOUT),
        ("x = b'x' * 200_000_000; time.sleep(60)", {"memory": 100_000_000}, ExitReason.OUT_OF_MEMORY),
        ("pass", {}, ExitReason.DONE),
    ]
    for number, (code, limits, reason) in enumerate(ends, 1):
        outcome = run(stand, number, params={"code": code}, **limits)
        assert (code, outcome.exitReason, outcome.details["warm"]) == (code, reason, True)
    assert "in work" in stand.log("job-6")
    wait_until(lambda: with_module(worker)[0] == imported, what="the same process, and a fork for the next job")


def test_cancelling_a_warm_job_kills_its_daemons_and_keeps_the_zygote(stand: Stand) -> None:
    stand.service(WAITS)
    worker = stand.start()
    zygotes = set()
    for number in range(2):
        stand.enqueue(f"job-{number}")
        job, keeper = runs(stand, number)
        zygotes.add(zygote_of(job, keeper))
        stand.transport.request_cancel([f"job-{number}"])
        assert stand.outcome(f"job-{number}").exitReason is ExitReason.CANCELLED
    (zygote,) = zygotes
    wait_until(lambda: len(kept(worker)) == 3 and kept(worker) >= {keeper, zygote}, what="what is kept")


@pytest.mark.parametrize("victim", ["worker", "horse", "keeper", "zygote", "job"])
def test_whoever_is_killed_nothing_of_the_job_lives_on(stand: Stand, victim: str) -> None:
    """The job is warm, and has a daemon; a zygote that dies costs the job nothing."""
    stand.service(WAITS)
    worker = stand.start()
    stand.enqueue("job-0")
    runs(stand, 0)
    stand.transport.request_cancel(["job-0"])
    stand.outcome("job-0")
    stand.enqueue("job-1")
    job, keeper = runs(stand, 1)
    zygote = zygote_of(job, keeper)
    (horse,) = [pid for pid, each in family(worker.pid).items() if each.parent == worker.pid and pid != keeper]
    os.kill({"worker": worker.pid, "horse": horse, "keeper": keeper, "zygote": zygote, "job": job}[victim], 9)
    if victim == "zygote":
        wait_until(lambda: gone(zygote))
        stand.transport.request_cancel(["job-1"])
        assert stand.outcome("job-1").exitReason is ExitReason.CANCELLED
    elif victim != "worker":
        assert stand.outcome("job-1", 40).exitReason is ExitReason.LOST
    else:
        worker.wait(10)
    wait_until(lambda: gone(job), what="the job is gone")
    if victim == "job":
        wait_until(lambda: len(kept(worker)) == 3 and kept(worker) >= {keeper, zygote}, what="what is kept")
    else:
        wait_until(lambda: not (stand.processes() if victim == "worker" else stand.of_jobs(worker)), what="all is gone")
    if victim != "worker":
        assert run(stand, 2, worker="svc.job.quick").exitReason is ExitReason.DONE


def test_a_zygote_that_dies_or_stands_still_costs_no_job(stand: Stand) -> None:
    stand.service(COUNTS)
    worker = stand.start()
    for number, strike in enumerate([signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]):
        assert run(stand, number).exitReason is ExitReason.DONE
        for pid in reversed(with_module(worker)):  # the fork dies with its zygote
            os.kill(pid, strike)
    assert run(stand, 3).exitReason is ExitReason.DONE


def test_a_job_for_which_no_fork_waits_is_forked_when_it_comes(stand: Stand) -> None:
    """As one that comes before the next fork is made, which is a moment after a job's end."""
    stand.service(COUNTS)
    worker = stand.start()
    run(stand, 0)
    zygote, fork = with_module(worker)
    os.kill(fork, signal.SIGKILL)
    wait_until(lambda: kept(worker) & {zygote, fork} == {zygote}, what="the fork is gone")
    outcome = run(stand, 1)
    assert (outcome.exitReason, outcome.details["warm"]) == (ExitReason.DONE, True)
    wait_until(lambda: with_module(worker)[0] == zygote, what="the same zygote, and a fork for the next job")


def test_a_job_that_ends_before_its_horse_goes_on_has_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The horse stood still when it had sent the order; meanwhile the keeper ran the job, answered and closed."""
    ours, theirs = socket.socketpair()
    send_fds = socket.send_fds

    def send_and_stand_still(*args: Any) -> int:
        sent = send_fds(*args)
        theirs.recv(1 << 16)
        theirs.sendall(b'{"kind": "running"}\n' + json.dumps(asdict(End(status=0, warm=True))).encode() + b"\n")
        theirs.close()
        return sent

    monkeypatch.setattr(socket, "send_fds", send_and_stand_still)
    with Path(os.devnull).open("rb") as task:
        command = Command(["x"], {}, "/", "/log", 1000, None, input=task.fileno())
        with Kept(ours, command, os.getpid()) as kept_one:
            end = kept_one.wait()
    assert (end.status, end.warm) == (0, True)


def test_what_fails_while_a_job_runs_does_not_start_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Warm, "_find", lambda *_: nullcontext())
    watched = []

    def watch(_: object) -> End:
        watched.append(1)
        raise OSError("the disk fails")

    warm = Warm(Settings(BASEDIR=tmp_path))
    try:
        with pytest.raises(OSError, match="the disk fails"):
            warm.run("name", "svc.work", Command(["x"], {}, "/", "/log", 1000, None), watch)
    finally:
        for fd in (warm._fd, warm._lock):
            os.close(fd)
    assert watched == [1]


def test_where_somebody_has_taken_the_name_of_its_tmpdir_a_job_is_cold(stand: Stand) -> None:
    stand.service(
        """
        import os, pathlib, tempfile
        def work(output_dir):
            os.close(tempfile.mkstemp()[0])
            pathlib.Path(output_dir, "tmpdir").write_text(os.environ["TMPDIR"])
        """
    )
    stand.start()
    run(stand, 0)
    taken = Path(stand.written("tmpdir", "job-0"))
    wait_until(lambda: not taken.exists(), what="the job before has let go of it")  # which its outcome does not say
    taken.mkdir()
    try:
        outcome = run(stand, 1)
    finally:
        taken.rmdir()
    assert (outcome.exitReason, outcome.details["warm"]) == (ExitReason.DONE, False)
    assert "not kept warm: somebody else has taken the name of its TMPDIR" in stand.log("job-1")
    assert run(stand, 2).details["warm"] is True


def test_a_keeper_that_a_job_stopped_goes_on(stand: Stand) -> None:
    stand.service(
        """
        import os, signal, time
        def work(params):
            if params:
                os.kill(os.getppid(), signal.SIGSTOP)
                time.sleep(60)
        """
    )
    stand.start()
    run(stand, 0)
    outcome = run(stand, 1, params={"stop": True}, timeout=0.5)
    assert (outcome.exitReason, outcome.details["warm"]) == (ExitReason.TIMEOUT, True)


def test_a_worker_that_ends_leaves_nothing_and_the_next_one_clears_up(stand: Stand, short_tmp: str) -> None:
    stand.service(COUNTS)
    worker = stand.start()
    run(stand, 0)
    worker.kill()
    worker.wait(10)
    wait_until(lambda: not stand.processes(), what="nothing lives on")
    (left,) = Path(short_tmp).glob("dcmproc-warm-*")
    worker = stand.start()
    run(stand, 1)
    assert not left.exists()
    worker.terminate()
    worker.wait(20)
    assert not list(Path(short_tmp).glob("dcmproc-warm-*"))
    assert not stand.processes()


def test_no_more_are_kept_than_the_settings_say(stand: Stand) -> None:
    stand.service("def a():\n    pass\ndef b():\n    pass\ndef c():\n    pass\n")
    worker = stand.start(WARM_FUNCTIONS="2")
    order = ["a", "b", "a", "c", "a", "b"]  # c takes b's place, which was not used for longest
    warm = [run(stand, n, worker=f"svc.job.{name}").details["warm"] for n, name in enumerate(order)]
    assert warm == [False, False, True, False, True, False]
    wait_until(lambda: len(kept(worker)) == 6, what="two keepers, each with a zygote and a fork")


@pytest.mark.parametrize("limit", [{"WARM_IDLE": "0.2"}, {"WARM_AGE": "0.2"}])
def test_what_idles_or_is_old_goes(stand: Stand, limit: dict[str, str]) -> None:
    stand.service(COUNTS)
    worker = stand.start(**limit)
    run(stand, 0)
    wait_until(lambda: not kept(worker) or all(gone(pid) for pid in kept(worker)), what="it is gone")
    assert run(stand, 1).details["warm"] is False


def test_one_that_holds_too_much_is_not_kept(stand: Stand) -> None:
    stand.service("X = b'x' * 100_000_000\ndef work():\n    pass\n")
    stand.start(WARM_MEMORY="64M")
    assert run(stand, 0).details["warm"] is False
    assert run(stand, 1).details["warm"] is False
    assert "more than WARM_MEMORY" in stand.log("job-1")


def test_none_is_kept_where_the_settings_say_so(stand: Stand) -> None:
    stand.service(COUNTS)
    worker = stand.start(WARM_FUNCTIONS="0")
    assert [run(stand, n).details["warm"] for n in range(2)] == [False, False]
    wait_until(lambda: not kept(worker), what="nothing is kept")


def test_another_environment_of_the_jobs_is_another_import(stand: Stand) -> None:
    stand.service("import os, pathlib\nTZ = os.environ.get('TZ')\ndef work(output_dir):\n    print(TZ)\n")
    worker = stand.start(TZ="Europe/Vienna")
    run(stand, 0)
    worker.terminate()
    worker.wait(20)
    stand.start(TZ="Asia/Tokyo")
    run(stand, 1)
    assert [stand.log(f"job-{n}") for n in range(2)] == ["Europe/Vienna\n", "Asia/Tokyo\n"]

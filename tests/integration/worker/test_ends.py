"""How attempts end, and that the record says why."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.outcome import Outcome
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import SERIES, STUDY, Stand, gone
from tests.small_disk import small_disk
from tests.waiting import wait_until

ENDS = """
import os, signal, sys, time
import helper

class TransientServiceError(Exception):
    pass

class NotNowError(TransientServiceError):
    pass

def done(**kwargs):
    print("hello from the job")

def raises(**kwargs):
    helper.divide("Doe^Jane")

def cannot_be_shown(**kwargs):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError
    raise Odd

def transient(**kwargs):
    raise NotNowError("the licence server is busy")

def exits_75(**kwargs):
    sys.exit(75)

def exits_3(**kwargs):
    os._exit(3)

def exits_with_text(**kwargs):
    sys.exit("no brain in this study")

def exits_well(**kwargs):
    sys.exit()

def aborts(**kwargs):
    os.abort()

def is_killed(**kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def out_of_memory(**kwargs):
    raise MemoryError

def needs_more(brain, **kwargs):
    pass

def leaves_thread(output_dir, **kwargs):
    import atexit, threading
    def late():
        time.sleep(0.3)
        open(output_dir + "/thread", "w").write("done")
    threading.Thread(target=late).start()
    atexit.register(lambda: open(output_dir + "/atexit", "w").write("done"))
"""


@pytest.fixture
def ended(stand: Stand, request: pytest.FixtureRequest) -> Outcome:
    stand.service(ENDS, helper="def divide(name):\n    raise ValueError('no volume in ' + name)\n")
    stand.start()
    stand.enqueue(worker=f"svc.job.{request.param}")
    return stand.outcome()


@pytest.mark.parametrize(
    ("ended", "reason", "error", "rq"),
    [
        ("done", ExitReason.DONE, None, "finished"),
        ("exits_well", ExitReason.DONE, None, "finished"),
        ("leaves_thread", ExitReason.DONE, None, "finished"),
        ("raises", ExitReason.EXCEPTION, "ValueError: no volume in Doe^Jane", "ValueError"),
        ("cannot_be_shown", ExitReason.EXCEPTION, "Odd", "Odd"),
        ("needs_more", ExitReason.EXCEPTION, "TypeError: needs_more() requires 'brain'", "TypeError"),
        ("no_such_function", ExitReason.EXCEPTION, "LookupError: 'svc.job.no_such_function'", "LookupError"),
        ("transient", ExitReason.TRANSIENT, "NotNowError: the licence server is busy", "NotNowError"),
        ("exits_75", ExitReason.TRANSIENT, "exit status 75", "Transient"),
        ("exits_3", ExitReason.EXIT, "exit status 3", "Exit"),
        ("exits_with_text", ExitReason.EXIT, "exit status 1", "Exit"),
        ("aborts", ExitReason.SIGNAL, "SIGABRT", "Signal"),
        ("is_killed", ExitReason.LOST, "SIGKILL", "Lost"),
        ("out_of_memory", ExitReason.OUT_OF_MEMORY, "MemoryError", "MemoryError"),
    ],
    indirect=["ended"],
)
def test_every_end_has_its_reason(stand: Stand, ended: Outcome, reason: ExitReason, error: str | None, rq: str) -> None:
    """The outcome says how and why; RQ's job ends as its attempt did and shows the exception's class only."""
    assert (ended.exitReason, (ended.error or "")[: len(error or "")]) == (reason, error or ""), ended
    assert list(ended.phases) == ["module", "environment", "fetch", "run"]
    assert all(begin <= end for begin, end in ended.phases.values())
    assert ended.details["peakMemory"] > 5_000_000
    if reason is ExitReason.DONE:
        wait_until(lambda: stand.rq_job().get_status() == "finished", 10, "RQ's end")
    else:
        assert (stand.rq_failure(), stand.rq_job().get_status()) == (rq, "failed")
    everything = b"".join(stand.transport.redis.dump(key) or b"" for key in stand.transport.redis.scan_iter("rq:*"))
    assert b"Doe" not in everything
    assert "Doe" not in (stand.base / "worker.log").read_text()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("sys.exit()", ExitReason.EXIT),
        ("os._exit(0)", ExitReason.EXIT),
        ("sys.exit(3)", ExitReason.EXIT),
        ("sys.exit(75)", ExitReason.TRANSIENT),
    ],
)
def test_a_module_that_ends_the_process_while_it_is_imported_has_not_done_its_job(
    stand: Stand, line: str, reason: ExitReason
) -> None:
    """A script with its work at the top level, say: nobody called the function, so nothing may count as finished."""
    stand.service(f"import os, sys\n{line}\ndef work(**kwargs):\n    pass\n")
    stand.start()
    stand.enqueue()
    outcome = stand.outcome()
    assert outcome.exitReason is reason
    assert "exit status" in (outcome.error or "")


@pytest.mark.parametrize("ended", ["raises"], indirect=True)
def test_a_traceback_begins_in_the_service(stand: Stand, ended: Outcome) -> None:
    """In the outcome and in the log: the service's own lines, not the platform's."""
    assert ended.traceback is not None
    lines = ended.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "job.py" in lines[1]
    assert lines[-1] == "ValueError: no volume in Doe^Jane"
    assert "runner.py" not in ended.traceback
    assert "contract.py" not in ended.traceback
    assert stand.log() == ended.traceback


@pytest.mark.parametrize("ended", ["leaves_thread"], indirect=True)
def test_threads_and_exit_functions_come_to_their_end(stand: Stand, ended: Outcome) -> None:
    assert ended.exitReason is ExitReason.DONE
    assert stand.written("thread") == stand.written("atexit") == "done"


@pytest.mark.parametrize("ended", ["exits_with_text"], indirect=True)
def test_what_a_function_says_when_it_exits_is_in_the_log(stand: Stand, ended: Outcome) -> None:
    assert stand.log() == "no brain in this study\n"


DAEMONS = """
import os, sys, time

def daemon(output_dir, name):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if os.fork():
        os._exit(0)
    os.setsid()
    for fd in (0, 1, 2, 3):
        os.close(fd)
    with open(output_dir + "/" + name + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(output_dir + "/" + name + ".new", output_dir + "/" + name)
    time.sleep(600)

def start(output_dir):
    for name in ("one", "two"):
        daemon(output_dir, name)
    while len(os.listdir(output_dir)) < 2:
        time.sleep(0.01)

def returns(output_dir, **kwargs):
    start(output_dir)

def hangs(output_dir, **kwargs):
    start(output_dir)
    time.sleep(600)
"""


def daemons(stand: Stand) -> list[int]:
    return [int(stand.written(name)) for name in ("one", "two")]


def test_daemons_end_with_their_job(stand: Stand) -> None:
    """A function that returned is done, but what it left running is ended before the outcome is there."""
    stand.service(DAEMONS)
    stand.start()
    stand.enqueue(worker="svc.job.returns")
    assert stand.outcome().exitReason is ExitReason.DONE
    assert all(gone(pid) for pid in daemons(stand))


def test_a_timeout_kills_double_forked_daemons_and_shows_where_it_was(stand: Stand) -> None:
    stand.service(DAEMONS)
    stand.start()
    stand.enqueue(worker="svc.job.hangs", timeout=1.0)
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.TIMEOUT
    assert outcome.error == "the function ran longer than the 1 s of `timeout`"
    assert 1 <= outcome.phases["run"][1] - outcome.details["functionBegan"] < 3
    assert all(gone(pid) for pid in daemons(stand))
    assert "in hangs" in stand.log()  # the stack of each thread, from faulthandler


def test_a_job_that_stops_its_reaper_does_not_outlive_its_timeout(stand: Stand) -> None:
    stand.service(
        "import os, signal, time\ndef work(**kwargs):\n    os.kill(os.getppid(), signal.SIGSTOP)\n    time.sleep(600)\n"
    )
    stand.start()
    stand.enqueue(timeout=1.0)
    assert stand.outcome().exitReason is ExitReason.TIMEOUT


def test_the_timeout_counts_the_function_alone(stand: Stand) -> None:
    """Importing the module may take longer than the function may."""
    stand.service("import time\ntime.sleep(1.5)\ndef work(**kwargs):\n    pass\n")
    stand.start()
    stand.enqueue(timeout=1.0)
    assert stand.outcome().exitReason is ExitReason.DONE


def test_a_memory_limit_counts_all_processes_of_the_job(stand: Stand) -> None:
    """No single process holds that much, but together they do; shared pages are counted once."""
    stand.service(
        """
        import os, time
        def work(**kwargs):
            shared = bytearray(os.urandom(1024)) * (60 * 1024)
            for _ in range(4):
                if os.fork() == 0:
                    own = bytearray(os.urandom(1024)) * (kwargs["params"]["each"] * 1024)
                    time.sleep(kwargs["params"]["seconds"])
                    os._exit(0)
            for _ in range(4):
                os.wait()
        """
    )
    stand.start()
    limit = 300 * 1024 * 1024
    stand.enqueue("job-1", memory=limit, params={"each": 80, "seconds": 60})
    stand.enqueue("job-2", memory=limit, params={"each": 20, "seconds": 1})
    outcome = stand.outcome("job-1")
    assert outcome.exitReason is ExitReason.OUT_OF_MEMORY
    assert outcome.error == "the job held more than the 300 MB that `memory` allows"
    assert outcome.details["peakMemory"] > limit
    assert stand.outcome("job-2").exitReason is ExitReason.DONE


def test_a_flood_of_output_neither_blocks_the_job_nor_fills_the_disk(stand: Stand) -> None:
    """200 MB in seconds; the log holds the beginning, a mark where it was cut, and the end."""
    stand.service(
        """
        def work(**kwargs):
            line = "x" * 999
            for number in range(200_000):
                print(f"{number} {line}")
            print("the last words")
        """
    )
    stand.start()
    stand.enqueue()
    outcome = stand.outcome(seconds=60)
    assert outcome.exitReason is ExitReason.DONE
    assert outcome.details["logCut"] > 190_000_000
    size = stand.spooled().joinpath("log").stat().st_size
    assert 9_000_000 < size <= 10_000_000
    assert outcome.details["logSize"] == size
    log = stand.log()
    assert log.startswith("0 xxx")
    assert "[dcm-processor: the log is full; what follows is left out but for its end]" in log
    assert " bytes left out]\n" in log
    assert log.endswith("the last words\n")


def test_a_kernel_that_ran_out_of_memory_is_told_from_a_lost_worker(stand: Stand) -> None:
    """A real OOM kill in a control group of the worker's own; it hits the job and spares the worker."""
    root = Path("/sys/fs/cgroup/memory")
    group = root / f"dcm-processor-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(400 * 1024 * 1024))
    except OSError:
        pytest.skip("this machine does not let the test make a control group (cgroup v1, memory)")
    try:
        stand.service("def work(**kwargs):\n    held = [bytearray(b'x' * 10_000_000) for _ in range(100)]\n")
        worker = stand.start()
        (group / "cgroup.procs").write_text(str(worker.pid))
        stand.enqueue()
        outcome = stand.outcome(seconds=30)
        assert outcome.exitReason is ExitReason.OUT_OF_MEMORY, outcome
        assert outcome.details["oomKills"] == 1
        assert outcome.error == "the kernel's OOM killer ended the job"
        assert worker.poll() is None
    finally:
        stand.close()
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "the control group is empty")
        group.rmdir()


def test_requirements_that_cannot_be_installed(stand: Stand) -> None:
    """The reason, the end of the build log in outcome and job log; jobs of other services go on."""
    stand.service("def work(**kwargs):\n    pass\n", name="broken", requirements="./no-such-file-here.whl\n")
    stand.service("def work(**kwargs):\n    pass\n")
    stand.start()
    stand.enqueue("job-1", worker="broken.job.work")
    stand.enqueue("job-2")
    outcome = stand.outcome("job-1")
    assert outcome.exitReason is ExitReason.ENVIRONMENT
    assert "no-such-file-here.whl" in (outcome.error or "")
    assert "no-such-file-here.whl" in outcome.details["buildLog"]
    assert outcome.details["buildLog"] in stand.log("job-1")
    assert list(outcome.phases) == ["module", "environment"]
    assert stand.outcome("job-2").exitReason is ExitReason.DONE


def test_an_index_that_does_not_answer_is_an_outage(stand: Stand) -> None:
    stand.service("def work(**kwargs):\n    pass\n", requirements="certifi==2024.7.4\n")
    stand.start(PIP_INDEX_URL="http://user:index-secret@127.0.0.1:9/simple", UV_HTTP_RETRIES="0")
    stand.enqueue()
    outcome = stand.outcome(seconds=60)
    assert outcome.exitReason is ExitReason.OUTAGE, outcome
    assert "127.0.0.1:9" in (outcome.error or "")
    assert "index-secret" not in str(outcome) + stand.log()


@pytest.mark.parametrize(
    "order",
    [
        {"service": "..", "worker": "svc.job.work"},
        {"digest": "../svc"},
        {"seriesId": ".."},
        {"inputs": {"..": f"results/{STUDY}/first"}},
        {"inputs": {"first": f"results/{STUDY}/../../secrets"}},
        {"inputs": {"first": "/etc"}},
        {"inputs": {"first": {"..": f"results/{STUDY}/first"}}},
        {"inputs": {"first": {SERIES: "results//first"}}},
    ],
)
def test_an_order_whose_names_could_lead_elsewhere(stand: Stand, order: dict[str, Any]) -> None:
    """Whoever can write to Redis must not be able to name any folder of a worker."""
    stand.service("def work(**kwargs):\n    pass\n")
    stand.start()
    stand.enqueue(**order)
    outcome = stand.outcome()
    assert (outcome.exitReason, outcome.error) == (
        ExitReason.MODULE, "the order holds a name that cannot be a folder's"
    )  # fmt: skip
    assert outcome.phases == {}


def test_an_orthanc_that_does_not_answer(stand: Stand) -> None:
    stand.service("def work(**kwargs):\n    pass\n")
    stand.start()
    stand.enqueue(plan=stand.plan(instances={SERIES: [SERIES]}))
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.OUTAGE
    assert outcome.errorClass == "OrthancAwayError"
    assert list(outcome.phases) == ["module", "environment", "fetch"]


def test_an_output_folder_that_cannot_be_made(stand: Stand) -> None:
    """DATA is no folder: the record says so, and the attempt counts as one to try again."""
    stand.service("def work(**kwargs):\n    pass\n")
    (stand.base / "data" / "attempts").write_text("in the way")
    stand.start()
    stand.enqueue()
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.TRANSIENT
    assert str(stand.base / "data" / "attempts") in (outcome.error or "")
    assert "Not a directory" in (outcome.error or "")


def test_a_spool_that_cannot_be_written(stand: Stand) -> None:
    """The attempt is not run, as its outcome could be lost; the record says why, and the worker lives."""
    (stand.base / "run").mkdir()
    (stand.base / "run" / "spool").write_text("in the way")
    stand.service("def work(**kwargs):\n    pass\n")
    worker = stand.start()
    stand.enqueue()
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.OUTAGE
    assert "the spool" in (outcome.error or "")
    stand.acknowledge()
    assert worker.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("place", ["data", "run"])
def test_a_full_disk(stand: Stand, place: str) -> None:
    """Under DATA the job fails with what the system said; under the spool its log is lost, its outcome is not."""
    small = stand.base / place / "attempts" if place == "data" else stand.base / place
    small.mkdir()
    with small_disk(small, "3m"), closing(stand):
        stand.service(
            """
            def work(output_dir, **kwargs):
                print("y" * 5_000_000)
                open(output_dir + "/big", "w").write("x" * 5_000_000)
            """
        )
        worker = stand.start()
        stand.enqueue()
        outcome = stand.outcome(seconds=60)
        if place == "data":
            assert outcome.exitReason is ExitReason.EXCEPTION
            assert outcome.error == "OSError: [Errno 28] No space left on device"
        else:
            assert outcome.exitReason is ExitReason.DONE
            assert outcome.details["logFault"] == "No space left on device"
            assert stand.logged("part of the job's log is lost")["why"] == "No space left on device"
        stand.acknowledge()
        assert worker.poll() is None


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_what_forks_all_the_time_is_caught(stand: Stand, *, own_session: bool, warm: bool) -> None:
    """A process whose every life lasts a millisecond, and that leaves a child each time, alone or in sessions."""
    stand.service(
        """
        import os, time
        def work(output_dir, params, **kwargs):
            for _ in range(3):
                if os.fork() == 0:
                    while True:
                        if params["own_session"]:
                            os.setsid()
                        if os.fork():
                            os._exit(0)
            time.sleep(600)
        """
    )
    stand.start()
    stand.enqueue(timeout=0.5, params={"own_session": own_session}, warm=warm)
    outcome = stand.outcome(seconds=40)
    assert outcome.exitReason is ExitReason.TIMEOUT
    assert "survivors" not in outcome.details
    kept = 2 if warm else 0  # what has imported the module, and its fork that waits for the next job
    wait_until(
        lambda: sum("runner.py" in command for command in stand.processes().values()) == kept, 10, "nothing else"
    )


@pytest.mark.parametrize("warm", [False, True])
def test_whatever_a_job_writes_to_the_descriptor_of_its_messages_is_survived(stand: Stand, *, warm: bool) -> None:
    """Also what no reader of JSON gets to the end of."""
    stand.service(
        """
        import os
        def work(**kwargs):
            for line in (b"[" * 100_000, b"9" * 5_000, b"{}", b"null", bytes(range(128, 256)), b'{"kind": []}'):
                os.write(3, line + b"\\n")
        """
    )
    stand.start()
    for number in range(2):
        stand.enqueue(f"job-{number}", warm=warm)
        assert stand.outcome(f"job-{number}").exitReason is ExitReason.DONE


@pytest.mark.parametrize("warm", [True, False])
def test_files_that_a_function_has_in_place_of_our_pipes_stay_as_they_were(stand: Stand, *, warm: bool) -> None:
    """As one that becomes a daemon does, which closes all but its own three."""
    stand.service("""
        import os

        def work(output_dir):
            os.closerange(3, 64)
            for number in (3, 4, 5):
                opened = os.open(f"{output_dir}/{number}", os.O_WRONLY | os.O_CREAT)
                os.write(opened, b"%d" % opened)
    """)
    stand.start()
    stand.enqueue(warm=warm)
    assert stand.outcome().exitReason is ExitReason.DONE
    assert {path.name: path.read_text() for path in stand.output().iterdir()} == {number: number for number in "345"}

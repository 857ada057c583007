"""What outlives whom: kill -9 of each process, cancel, hand back, and Redis going away."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
from rq import Callback, Queue
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker

from dcm_processor.transport import PREFIX
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import SERIES, Stand, gone, horse_of
from tests.integration.worker.test_ends import DAEMONS, daemons
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from worker.reaper import family
from worker.spool import BLANK

SLOW = """
import os, time
def work(output_dir, params, **kwargs):
    open(output_dir + "/pid", "w").write(str(os.getpid()))
    print("begun", flush=True)
    time.sleep(params.get("seconds", 600))
    open(output_dir + "/end", "w").write("end")
"""


def _all_gone(stand: Stand, pids: list[int], since: float) -> None:
    wait_until(lambda: all(gone(pid) for pid in pids), 2 - (time.monotonic() - since), "all are killed within 2 s")
    wait_until(lambda: not stand.processes(), 5, "nothing is left")


def test_killing_the_worker_kills_everything_of_its_job(stand: Stand) -> None:
    """Daemons too, within 2 s; a worker that comes later ships what the dead one spooled, and invents no outcome."""
    stand.service(DAEMONS)
    worker = stand.start()
    stand.enqueue(worker="svc.job.hangs")
    pids = [*daemons(stand), *family(worker.pid)]
    assert len(pids) >= 5  # horse, reaper, runner and the daemons
    worker.kill()
    _all_gone(stand, pids, time.monotonic())
    worker.wait()
    stand.start()
    stand.logged("serving")
    assert not stand.reports("job-1", "outcome")


def test_killing_the_horse_kills_its_job_and_is_reported_at_once(stand: Stand) -> None:
    """The worker saw it, so nobody waits 60 s for an announcement; it goes on with the next attempt."""
    stand.service(DAEMONS)
    worker = stand.start()
    stand.enqueue(worker="svc.job.hangs")
    pids, horse = daemons(stand), horse_of(worker)
    os.kill(horse, signal.SIGKILL)
    _none_of_job_left(stand, pids, worker)
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.LOST
    assert outcome.error == "the work-horse ended with signal 9"
    stand.enqueue("job-2", worker="svc.job.returns")
    assert stand.outcome("job-2").exitReason is ExitReason.DONE
    assert stand.reports("job-1", "started")[0].claim == stand.reports("job-1", "outcome")[0].claim


def _none_of_job_left(stand: Stand, pids: list[int], worker: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: all(gone(pid) for pid in pids), 2, "the daemons are killed within 2 s")
    wait_until(lambda: not stand.of_jobs(worker), 5, "only the worker is left")


def test_a_horse_that_dies_before_its_attempt_comes_costs_nothing(stand: Stand) -> None:
    stand.service(SLOW)
    worker = stand.start()
    stand.logged("serving")
    waiting = horse_of(worker)
    os.kill(waiting, signal.SIGKILL)
    wait_until(lambda: gone(waiting), what="it is dead before it can be told anything")
    stand.enqueue(params={"seconds": 0})
    assert stand.outcome().exitReason is ExitReason.DONE
    assert not (Path("/proc") / str(waiting)).exists()
    wait_until(lambda: len(list((stand.base / "run" / "spool" / BLANK).iterdir())) == 1, what="its folder goes too")


def test_a_horse_that_stands_still_before_its_attempt_comes_is_made_to_go_on(stand: Stand) -> None:
    stand.service(SLOW)
    worker = stand.start()
    stand.logged("serving")
    os.kill(horse_of(worker), signal.SIGSTOP)
    stand.enqueue(params={"seconds": 0})
    assert stand.outcome(seconds=20).exitReason is ExitReason.DONE


REDIS_IS_AWAY_ONCE = """
import os, redis, rq.worker.base
prepare = rq.worker.base.prepare_execution
def prepare_and_fail(worker, job):
    prepare(worker, job)
    rq.worker.base.prepare_execution = prepare
    os.kill(worker._spare.pid, 9)
    os.waitid(os.P_PID, worker._spare.pid, os.WEXITED | os.WNOWAIT)
    raise redis.TimeoutError
rq.worker.base.prepare_execution = prepare_and_fail
"""


def test_redis_away_as_an_attempt_begins_and_a_horse_that_dies_meanwhile_spoil_no_later_one(stand: Stand) -> None:
    """The execution that RQ has noted by then is not taken for that of the next attempt, nor a pid for the horse's."""
    stand.service(SLOW)
    stand.start(REDIS_IS_AWAY_ONCE)
    stand.enqueue("job-1")
    stand.logged("RQ's books could not be kept")
    wait_until(lambda: stand.rq_states() == ["idle"], what="RQ's tools show an idle worker")
    stand.enqueue("job-2", params={"seconds": 0})
    assert stand.outcome("job-2").exitReason is ExitReason.DONE
    wait_until(lambda: stand.rq_job("job-2").get_status() == "finished", what="RQ is done")
    running = stand.transport.redis.zrange("rq:wip:default", 0, -1)
    assert [entry.split(b":")[0] for entry in running] == [b"job-1"]
    assert [line["message"] for line in stand.worker_log() if "failed" in line["message"]] == []


def test_a_worker_that_ends_leaves_no_horse_and_no_folder(stand: Stand) -> None:
    stand.service(SLOW)
    worker = stand.start()
    stand.logged("serving")
    waiting = horse_of(worker)
    worker.terminate()
    assert worker.wait(10) == 0
    assert gone(waiting)
    assert not any((stand.base / "run" / "spool" / BLANK).iterdir())


def test_a_horse_that_was_stopped_is_made_to_go_on(stand: Stand) -> None:
    """Else its attempt would count as lost, and its worker never take another one."""
    stand.service(SLOW)
    worker = stand.start()
    stand.enqueue(params={"seconds": 0.5})
    stand.written("pid")
    os.kill(horse_of(worker), signal.SIGSTOP)
    assert stand.outcome(seconds=20).exitReason is ExitReason.DONE


def test_killing_the_reaper_leaves_nothing_either(stand: Stand) -> None:
    stand.service(DAEMONS)
    worker = stand.start()
    stand.enqueue(worker="svc.job.hangs")
    pids, horse = daemons(stand), horse_of(worker)
    reaper = next(pid for pid, process in family(worker.pid).items() if process.parent == horse)
    os.kill(reaper, signal.SIGKILL)
    _none_of_job_left(stand, pids, worker)
    assert stand.outcome().exitReason is ExitReason.LOST


def test_killing_the_runner_counts_as_lost(stand: Stand) -> None:
    """A SIGKILL that neither we nor the OOM killer sent."""
    stand.service(SLOW)
    stand.start()
    stand.enqueue()
    os.kill(int(stand.written("pid")), signal.SIGKILL)
    assert stand.outcome().exitReason is ExitReason.LOST


@pytest.mark.parametrize("look", [1, 2])
@pytest.mark.parametrize(("instead", "reason"), [
    ("os.kill(os.getpid(), 9)", ExitReason.LOST),
    ("raise OSError(5, 'Input/output error')", ExitReason.OUTAGE),
])  # fmt: skip
def test_nothing_is_done_whose_output_is_not_on_the_disk(
    stand: Stand, look: int, instead: str, reason: ExitReason
) -> None:
    """The horse dies, or the disk fails, after the function has returned and before its output is kept.

    At the first look its process is taken apart; of what fails then the system tells no second time.
    """
    stand.service("def work(output_dir):\n    open(output_dir + '/image', 'w').write('x')\n")
    keep = f"def keep(*_):\n    calls.append(1)\n    if len(calls) == {look}: {instead}\n    return {{}}\n"
    stand.start(f"import os\nfrom worker import output\ncalls = []\n{keep}output.keep = keep")
    stand.enqueue()
    assert stand.outcome().exitReason is reason
    assert (stand.output() / "image").exists()


def test_what_a_thread_writes_after_the_function_returned_is_on_the_disk_too(stand: Stand) -> None:
    """The first look at the output comes when the function returns, and is not the last."""
    looks = stand.base / "looks"
    stand.service(f"""
        import os, threading, time

        def work(output_dir):
            def write():
                while not os.path.exists({str(looks)!r}):  # as long as the job may run
                    time.sleep(0.01)
                open(output_dir + "/late", "w").write("x")

            open(output_dir + "/early", "w").write("x")
            threading.Thread(target=write).start()
    """)
    stand.start(
        "import os\nfrom worker import output\nkeep = output.keep\ndef seen(*found):\n"
        "    kept = keep(*found)\n    names = sorted(map(os.path.basename, kept))\n"
        f"    open({str(looks)!r}, 'a').write(' '.join(names) + '\\n')\n    return kept\n"
        "output.keep = seen"
    )
    stand.enqueue()
    assert stand.outcome().exitReason is ExitReason.DONE
    first, last = looks.read_text().splitlines()
    assert ("early" in first, "late" in first) == (True, False)
    assert "late" in last


def test_a_horse_that_dies_once_its_outcome_is_sent_spoils_nothing(stand: Stand) -> None:
    """As it stands aside: the attempt has ended as it did, the worker goes on, and what is left goes with the rest."""
    stand.service("def work(output_dir):\n    open(output_dir + '/image', 'w').write('x')\n")
    stand.start(
        "import os\nfrom worker.run import _Attempt\ndeliver = _Attempt._deliver\ndef dies(*given):\n"
        "    deliver(*given)\n    os.kill(os.getpid(), 9)\n_Attempt._deliver = dies"
    )
    for attempt in ("job-1", "job-2"):
        stand.enqueue(attempt)
        assert stand.outcome(attempt).exitReason is ExitReason.DONE
        assert (stand.output(attempt) / "image").exists()
    left = stand.spooled("job-1")
    assert left.exists()
    stand.acknowledge("job-1")
    wait_until(lambda: not left.exists(), 20, "its folder goes, scratch and all")
    assert {report.outcome["exitReason"] for report in stand.reports("job-1", "outcome")} == {"done"}


def test_cancel_ends_a_running_job(stand: Stand) -> None:
    stand.service(DAEMONS)
    stand.start()
    stand.enqueue(worker="svc.job.hangs")
    pids = daemons(stand)
    stand.transport.request_cancel(["job-1"])
    assert stand.outcome().exitReason is ExitReason.CANCELLED
    assert all(gone(pid) for pid in pids)


def test_cancel_ends_the_build_of_an_environment(stand: Stand) -> None:
    """Not only the function: a package that compiles for ten minutes is ended too."""
    package = stand.base / "slow-package"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n'
    )
    (package / "slow.py").write_text("import time\ntime.sleep(600)\n")
    stand.service("def work(**kwargs):\n    pass\n", requirements=f"{package}\n")
    stand.start()
    stand.enqueue()
    stand.started()
    wait_until(lambda: any("slow" in command or "uv" in command for command in stand.processes().values()), 15, "uv")
    stand.transport.request_cancel(["job-1"])
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.CANCELLED, outcome
    assert list(outcome.phases) == ["module", "environment"]


def test_cancel_ends_a_fetch_from_an_orthanc_that_hangs(stand: Stand) -> None:
    stand.service("def work(**kwargs):\n    pass\n")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        stand.start(ORTHANC_REST_URL=f"http://127.0.0.1:{hanging.getsockname()[1]}")
        stand.enqueue(plan=stand.plan(instances={SERIES: [SERIES]}))
        connection, _ = hanging.accept()
        stand.transport.request_cancel(["job-1"])
        outcome = stand.outcome(seconds=10)
        connection.close()
    assert outcome.exitReason is ExitReason.CANCELLED
    assert list(outcome.phases)[-1] == "fetch"


def test_a_worker_told_to_stop_hands_its_attempt_back(stand: Stand) -> None:
    """After the grace, uncounted; nothing new is started; exit status 0."""
    stand.service(DAEMONS)
    worker = stand.start()
    stand.enqueue("job-1", worker="svc.job.hangs")
    pids = daemons(stand)
    stand.enqueue("job-2", worker="svc.job.returns")
    told = time.monotonic()
    worker.terminate()
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.HANDED_BACK
    assert time.monotonic() - told >= 0.5  # WORKER_STOP_GRACE of the stand
    assert worker.wait(10) == 0
    assert all(gone(pid) for pid in pids)
    assert stand.transport.redis.lrange("rq:queue:default", 0, -1) == [b"job-2"]
    assert not stand.reports("job-2", "started")


def test_an_attempt_that_ends_within_the_grace_ends_well(stand: Stand) -> None:
    stand.service(SLOW)
    worker = stand.start(WORKER_STOP_GRACE="20")
    stand.enqueue(params={"seconds": 1})
    stand.written("pid")
    worker.send_signal(signal.SIGINT)
    assert stand.outcome().exitReason is ExitReason.DONE
    assert worker.wait(10) == 0


def test_an_idle_worker_stops_within_seconds(stand: Stand) -> None:
    worker = stand.start()
    stand.logged("serving")
    worker.terminate()
    assert worker.wait(5) == 0
    assert not stand.transport.redis.smembers("rq:workers")


def test_two_workers_one_attempt(stand: Stand) -> None:
    """Pushed five times, it runs once."""
    stand.service("def work(output_dir, **kwargs):\n    open(output_dir + '/../runs', 'a').write('x')\n")
    stand.enqueue()
    for _ in range(4):
        stand.push("job-1")
    for _ in range(3):
        stand.start()
    assert stand.outcome().exitReason is ExitReason.DONE
    wait_until(lambda: not stand.transport.redis.llen("rq:queue:default"), 10, "all five are taken")
    wait_until(lambda: stand.rq_job().get_status() == "finished", 10, "RQ is done")
    assert (stand.base / "data" / "attempts" / "runs").read_text() == "x"
    assert len(stand.reports("job-1", "started")) == 1
    assert len({report.claim for report in stand.reports("job-1", "outcome")}) == 1


def test_an_attempt_nobody_wants_any_more_is_left_alone(stand: Stand) -> None:
    stand.start()
    stand.push("job-1")
    stand.logged("nobody wants this attempt any more")
    wait_until(lambda: stand.rq_job().get_status() == "finished", 10, "a quiet end")
    assert not stand.spooled().exists()


def test_a_worker_waits_for_redis_and_outlasts_it(stand: Stand, own_valkey: ValkeyServer) -> None:
    """Started before Redis; Redis stopped, emptied and started again, idle and in a job: the same process serves on."""
    stand.transport = type(stand.transport)(own_valkey.url)
    stand.service(SLOW)
    worker = stand.start(REDIS_URL=own_valkey.url)
    stand.logged("Redis does not answer")
    own_valkey.start()
    stand.enqueue("job-1", params={"seconds": 0})
    assert stand.outcome("job-1").exitReason is ExitReason.DONE

    own_valkey.restart()
    stand.enqueue("job-2", params={"seconds": 12})  # longer than two announcements
    pid = int(stand.written("pid", "job-2"))
    own_valkey.kill()
    for leftover in own_valkey.directory.rglob("*.aof"):
        leftover.write_bytes(b"")
    time_away = time.monotonic()
    wait_until(lambda: time.monotonic() - time_away > 6, 10, "an announcement failed")
    assert not gone(pid)
    own_valkey.start()
    assert not stand.transport.redis.exists(PREFIX + "order:job-2")  # all is gone but what the worker has said since
    wait_until(lambda: stand.transport.redis.get(PREFIX + "claim:job-2"), 10, "the claim is restored")
    assert stand.outcome("job-2", 30).exitReason is ExitReason.DONE
    assert worker.poll() is None
    stand.enqueue("job-3", params={"seconds": 0})
    assert stand.outcome("job-3", 15).exitReason is ExitReason.DONE
    wait_until(lambda: stand.rq_states() == ["idle"], 15, "RQ's tools show the worker again")


def test_an_outcome_survives_redis_being_away_at_the_end(stand: Stand, own_valkey: ValkeyServer) -> None:
    own_valkey.start()
    stand.transport = type(stand.transport)(own_valkey.url)
    stand.service(SLOW)
    stand.start(REDIS_URL=own_valkey.url)
    stand.enqueue(params={"seconds": 1.5})
    stand.written("pid")
    own_valkey.kill()
    wait_until(lambda: stand.spooled().joinpath("outcome.json").exists(), 15, "the outcome is spooled")
    own_valkey.start()
    assert stand.outcome(seconds=15).exitReason is ExitReason.DONE


def test_an_attempt_that_comes_again_after_redis_was_emptied_runs_once(stand: Stand) -> None:
    """Its outcome was spooled, but never taken: it is sent again instead."""
    stand.service("def work(output_dir, **kwargs):\n    open(output_dir + '/../runs', 'a').write('x')\n")
    stand.start()
    stand.enqueue()
    first = stand.outcome()
    stand.transport.redis.flushall()
    stand.enqueue()
    assert stand.outcome() == first
    stand.logged("this attempt has run; sending its outcome again")
    assert (stand.base / "data" / "attempts" / "runs").read_text() == "x"


def test_an_attempt_whose_worker_died_and_whose_claim_redis_lost_does_not_begin_twice(stand: Stand) -> None:
    """It counts as lost, so that the next attempt has a recorded predecessor."""
    stand.service(
        "import time\ndef work(output_dir, **kwargs):\n"
        "    open(output_dir + '/../runs', 'a').write('x')\n    time.sleep(60)\n"
    )
    runs = stand.base / "data" / "attempts" / "runs"
    worker = stand.start()
    stand.enqueue()
    wait_until(lambda: runs.exists() and runs.read_text(), 60, "the function runs")
    worker.kill()
    worker.wait()
    stand.transport.redis.flushall()
    stand.start()
    stand.enqueue()
    assert stand.outcome().exitReason is ExitReason.LOST
    assert runs.read_text() == "x"


def test_only_attempts_are_run(stand: Stand) -> None:
    """Who can write to Redis can have nothing else run: no other function, no callback, no pickle."""
    stand.start()
    target = stand.base / "owned"
    queue = Queue("default", connection=stand.transport.redis, serializer=JSONSerializer)
    queue.enqueue_call("os.system", args=(f"touch {target}",), job_id="other-function")
    queue.enqueue_call("worker.run.run_attempt", args=("a",), job_id="a", on_failure=Callback("os.getcwd"))
    stand.transport.redis.hset("rq:job:pickle", mapping={"data": b"\x80\x04garbage", "origin": "default"})
    stand.transport.redis.rpush("rq:queue:default", "pickle")
    stand.transport.redis.hset("rq:job:rubbish", mapping={"created_at": "yesterday", "data": b"{"})
    stand.transport.redis.rpush("rq:queue:default", "rubbish")
    stand.service("def work(**kwargs):\n    pass\n")
    stand.enqueue()
    assert stand.outcome().exitReason is ExitReason.DONE
    refused = [line["rqJobId"] for line in stand.worker_log() if "refused" in line["message"]]
    assert {"other-function", "a", "pickle"} <= set(refused)
    assert stand.rq_failure("other-function") == "NotAnAttempt"
    assert not target.exists()


def test_a_worker_that_a_full_redis_refuses_says_so_once_and_serves_when_there_is_room(
    stand: Stand, own_valkey: ValkeyServer
) -> None:
    own_valkey.start()
    stand.environ["REDIS_URL"] = own_valkey.url
    with redis.Redis.from_url(own_valkey.url) as client:
        client.config_set("maxmemory", 1)
        stand.start()
        refused = lambda: client.info("errorstats").get("errorstat_OOM", {}).get("count", 0)  # noqa: E731
        wait_until(lambda: refused() >= 4, 20, "it tried again and again")
        client.config_set("maxmemory", 0)
    stand.logged("serving")
    assert [line["message"] for line in stand.worker_log() if "Redis" in line["message"]] == [
        "Redis is full and takes nothing: make room there, or give it more (maxmemory); trying again until that ends"
    ]


def test_a_suspended_worker_takes_nothing_and_is_seen_to_live(stand: Stand) -> None:
    """As `rq suspend` has it."""
    stand.service(SLOW)
    alive = stand.base / "alive"
    suspend(stand.transport.redis)
    try:
        worker = stand.start(ALIVE_FILE=str(alive))
        stand.logged("serving")
        key = Worker.redis_worker_namespace_prefix + stand.logged("serving")["worker"]
        wait_until(lambda: stand.transport.redis.hget(key, "state") == b"suspended", what="RQ knows")
        wait_until(alive.exists)
        alive.unlink()
        stand.enqueue(params={"seconds": 0})
        wait_until(alive.exists, 15, "it is touched again")
        assert stand.reports("job-1", "started") == []
    finally:
        resume(stand.transport.redis)
    assert stand.outcome().exitReason is ExitReason.DONE
    wait_until(lambda: stand.transport.redis.hget(key, "state") == b"idle", what="RQ knows")
    suspend(stand.transport.redis)
    worker.terminate()
    assert worker.wait(10) == 0
    resume(stand.transport.redis)

"""What a job says of itself by `dcm_processor_job`: with its outcome, and while it runs."""

import signal

from dcm_processor.job_helper.dcm_processor_job import MAX_BYTES
from dcm_processor.notes import NamedResult, Progress
from dcm_processor.transport import said_progress
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import Stand
from tests.waiting import wait_until
from worker.spool import attempts

SOON = "import worker.announcer\nworker.announcer.Announcer.__init__.__defaults__ = (0.05,)\n"


def test_results_come_with_the_outcome_from_function_module_scripts_and_processes(stand: Stand) -> None:
    """Wherever the helper is imported: in the function, in a script, in processes that are spawned and forked."""
    stand.service(
        """
        import multiprocessing, os, subprocess, sys
        from dcm_processor_job import result

        def spawned():
            from dcm_processor_job import result
            result("spawned", True)

        def work(**kwargs):
            result("volume", 4810.5, unit="ml")
            for name in ("python", sys.executable):
                subprocess.run([name, "-c", "from dcm_processor_job import result; result('script', 'L')"], check=True)
            process = multiprocessing.get_context("spawn").Process(target=spawned)
            process.start()
            process.join()
            if os.fork() == 0:
                result("forked", 3)
                os._exit(0)
            os.wait()
        """
    )
    stand.start()
    stand.enqueue()
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.DONE, outcome
    named = [("volume", 4810.5, "ml"), ("script", "L", None), ("spawned", True, None), ("forked", 3, None)]
    assert outcome.results == tuple(NamedResult(*each) for each in named)


def test_progress_is_announced_while_the_job_runs(stand: Stand) -> None:
    stand.service(
        """
        import os, time
        from dcm_processor_job import progress

        def work(output_dir, **kwargs):
            progress(0.25, "lobe 1 of 4")
            while not os.path.exists(output_dir + "/go"):
                time.sleep(0.02)
        """
    )
    stand.start(SOON)
    stand.enqueue()
    client = stand.transport.redis
    said = wait_until(lambda: said_progress(client, ["job-1", "another"]), 15, "progress is announced")
    assert list(said) == ["job-1"]
    assert isinstance(said["job-1"], Progress)
    assert (said["job-1"].fraction, said["job-1"].text) == (0.25, "lobe 1 of 4")
    (stand.output() / "go").touch()
    assert stand.outcome().exitReason is ExitReason.DONE
    stand.acknowledge()
    assert said_progress(client, ["job-1"]) == {}


def test_a_job_that_is_killed_in_the_middle_keeps_what_it_wrote_whole(stand: Stand) -> None:
    stand.service(
        """
        import os, signal
        from dcm_processor_job import result

        def work(**kwargs):
            result("first", 1)
            result("second", 2)
            with open(os.environ["DCM_PROCESSOR_NOTES"] + "/results.jsonl", "a") as file:
                file.write('{"name": "third", "val')
            os.kill(os.getpid(), signal.SIGSEGV)
        """
    )
    stand.start()
    stand.enqueue()
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.SIGNAL
    assert outcome.results == (NamedResult("first", 1), NamedResult("second", 2))


def test_a_job_that_is_cut_off_by_its_time_limit_keeps_its_results(stand: Stand) -> None:
    stand.service(
        """
        import time
        from dcm_processor_job import result

        def work(**kwargs):
            result("so far", 1)
            time.sleep(1000)
        """
    )
    stand.start()
    stand.enqueue(timeout=0.5)
    outcome = stand.outcome()
    assert (outcome.exitReason, outcome.results) == (ExitReason.TIMEOUT, (NamedResult("so far", 1),))


def test_a_hostile_file_costs_the_worker_nothing_and_is_told_in_the_log(stand: Stand) -> None:
    """Gigabytes, lines that are none, another's file by a symlink, a pipe that nobody writes to."""
    stand.service(
        f"""
        import json, os

        def work(output_dir, jobName, params, **kwargs):
            notes = os.environ["DCM_PROCESSOR_NOTES"]
            results = notes + "/results.jsonl"
            if params["how"] == "huge":
                with open(results, "wb") as file:
                    file.write(b'{{"name": "good", "value": 1}}\\n' + b'["bad"]\\n{{"name": "=1", "value": 1}}\\n')
                    file.write(b"[" * {MAX_BYTES})
                    file.truncate(1 << 36)
            elif params["how"] == "pipe":
                os.mkfifo(results)
                os.mkfifo(notes + "/progress.json")
            else:
                os.rmdir(notes)
                os.symlink(params["elsewhere"], notes)
        """
    )
    elsewhere = stand.base / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    stand.start(SOON)
    for number, how in enumerate(("huge", "pipe", "symlink"), start=1):
        attempt_id = stand.enqueue(f"job{number}-1", params={"how": how, "elsewhere": str(elsewhere)})
        outcome = stand.outcome(attempt_id)
        assert outcome.exitReason is ExitReason.DONE, outcome
        assert outcome.results == ((NamedResult("good", 1),) if how == "huge" else ())
    assert "2 named results are left out" in stand.log("job1-1")
    for number in (1, 2, 3):
        stand.shipped(f"job{number}-1")
        stand.acknowledge(f"job{number}-1")
    wait_until(
        lambda: [stand.shipped(f"job{n}-1") for n in (1, 2, 3)] and not attempts(stand.base / "run/spool"),
        20,
        "nothing of them stays in the spool",
    )
    assert elsewhere.stat().st_mode & 0o777 == 0o755


def test_what_a_worker_spooled_with_its_results_is_sent_by_the_next(stand: Stand) -> None:
    """Killed right after it spooled: the outcome, with what the job named, comes from another worker."""
    stand.service("from dcm_processor_job import result\ndef work(**kwargs):\n    result('volume', 3)\n")
    worker = stand.start(
        "import os, signal\nimport dcm_processor.transport as t\n"
        "t.Transport.report = lambda self, report: os.kill(os.getppid(), signal.SIGKILL) or os._exit(1)\n"
    )
    stand.enqueue()
    worker.wait(20)
    assert worker.returncode == -signal.SIGKILL
    assert stand.reports("job-1", "outcome") == []
    stand.start()
    assert stand.outcome().results == (NamedResult("volume", 3),)


def test_each_job_of_a_service_has_its_own_results_however_its_process_came_to_be(stand: Stand) -> None:
    """Also where a process that imported the module is kept, and forks for each."""
    stand.service(
        """
        import dcm_processor_job

        def work(params, **kwargs):
            dcm_processor_job.progress(params["number"] / 10)
            dcm_processor_job.result("number", params["number"])
            dcm_processor_job.result(f"only of {params['number']}", True)
        """
    )
    stand.start()
    for number in range(1, 5):
        attempt_id = stand.enqueue(f"job{number}-1", params={"number": number})
        found = stand.outcome(attempt_id).results
        assert found == (NamedResult("number", number), NamedResult(f"only of {number}", value=True))

"""script.sh with real workers in local mode, where RUN_SCRIPTS has them run it as their user."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dcm_processor.store import Store
from dcm_processor.vocabulary import ExitReason
from tests.integration.worker.conftest import Stand
from tests.waiting import wait_until

READS = """
import time
from pathlib import Path
def work(output_dir, params, **kwargs):
    Path(output_dir, "begun").touch()
    while "until" in params and not Path(params["until"]).exists():
        time.sleep(0.02)
    print(Path(params["reads"]).read_text() if "reads" in params else "nothing to read")
"""
Install = Callable[..., str]


@pytest.fixture
def install(stand: Stand, tmp_path: Path) -> Install:
    """Installs a service with that script.sh, as a user would; returns its version."""

    def install(script: str, name: str = "svc") -> str:
        source = tmp_path / "sources" / name
        for part in ("registry", "module"):
            (source / part).mkdir(parents=True, exist_ok=True)
        job = {"jobName": name, "worker": f"{name}.job.work", "callback": f"{name}.c.asks"}
        (source / "registry" / "settings.json").write_text(json.dumps(job))
        for file, text in (("script.sh", script), ("job.py", READS), ("requirements.txt", "")):
            (source / "module" / file).write_text(text)
        return Store.of(stand.settings).install(name, source).digest

    return install


def test_a_script_runs_before_the_jobs_that_need_it(stand: Stand, install: Install) -> None:
    made = stand.base / "made"
    version = install(f"sleep 0.5; echo by the script > {made}")
    stand.start(RUN_SCRIPTS="1")
    stand.enqueue(digest=version, params={"reads": str(made)})
    assert stand.outcome().exitReason is ExitReason.DONE
    assert stand.log().endswith("by the script\n\n")
    assert stand.logged("the script.sh ran well")["service"] == "svc"


def test_jobs_of_a_service_whose_script_failed_fail_saying_so(stand: Stand, install: Install) -> None:
    """With what it printed in their logs; other services' jobs run, and the worker neither ends nor tries again."""
    bad, good = install("echo E: no such package; exit 100", name="bad"), install("true", name="good")
    worker = stand.start(RUN_SCRIPTS="1")
    stand.enqueue("bad-1", digest=bad, worker="bad.job.work")
    stand.enqueue("good-1", digest=good, worker="good.job.work")
    outcome = stand.outcome("bad-1")
    assert outcome.exitReason is ExitReason.ENVIRONMENT
    assert outcome.error is not None
    assert outcome.error.startswith("the script.sh of service bad failed with exit status 100 on this worker; correct")
    assert "E: no such package" in stand.log("bad-1")
    assert stand.rq_failure("bad-1") == "ScriptFailedError"
    assert stand.outcome("good-1").exitReason is ExitReason.DONE
    assert worker.poll() is None


def test_without_run_scripts_none_is_run_jobs_run_and_the_logs_say_so(stand: Stand, install: Install) -> None:
    made = stand.base / "made"
    version = install(f"touch {made}")
    stand.start()
    assert "RUN_SCRIPTS=1" in stand.logged("the script.sh of service svc is not run in local mode")["message"]
    stand.enqueue(digest=version)
    assert stand.outcome().exitReason is ExitReason.DONE
    assert stand.log().startswith("[dcm-processor: the script.sh of service svc is not run in local mode: ")
    assert "nothing to read" in stand.log()
    assert not made.exists()


def test_a_new_script_ends_the_worker_between_two_jobs_and_the_next_one_runs_it(stand: Stand, install: Install) -> None:
    go, made = stand.base / "go", stand.base / "made"
    old = install("true # old")
    worker = stand.start(RUN_SCRIPTS="1")
    stand.enqueue("first-1", digest=old, params={"until": str(go)})
    wait_until((stand.output("first-1") / "begun").exists, 15)
    new = install(f"echo new > {made}")
    stand.enqueue("second-1", digest=new, params={"reads": str(made)})
    assert worker.poll() is None
    go.touch()
    assert stand.outcome("first-1").exitReason is ExitReason.DONE
    assert worker.wait(15) == 0
    assert not stand.reports("second-1", "started")  # it waits in its queue
    stand.logged("ending, so that a script.sh is run at the next start")
    stand.start(RUN_SCRIPTS="1")
    assert stand.outcome("second-1").exitReason is ExitReason.DONE
    assert "new" in stand.log("second-1")


def test_an_idle_worker_notices_a_new_script(stand: Stand, install: Install) -> None:
    worker = stand.start(RUN_SCRIPTS="1")
    stand.logged("serving")
    install("true")
    assert worker.wait(15) == 0


def test_a_job_of_an_older_version_is_handed_back_until_that_versions_script_has_run(
    stand: Stand, install: Install
) -> None:
    """Uncounted, and not taken again before by the same worker."""
    made = stand.base / "made"
    old = install(f"echo old > {made}")
    install("true")
    worker = stand.start(RUN_SCRIPTS="1")
    stand.logged("serving")
    stand.enqueue("job-1", digest=old, params={"reads": str(made)})
    stand.enqueue("job-2", digest=old, params={"reads": str(made)})  # as the controller does when one comes back
    assert stand.outcome("job-1").exitReason is ExitReason.HANDED_BACK
    assert "has not run on this worker yet" in stand.log("job-1")
    assert worker.wait(15) == 0
    assert not stand.reports("job-2", "started")
    assert not made.exists()
    again = stand.start(RUN_SCRIPTS="1")
    assert stand.outcome("job-2").exitReason is ExitReason.DONE
    assert stand.log("job-2").endswith("old\n\n")
    assert again.poll() is None


def test_a_version_whose_script_cannot_be_asked_for_fails_instead_of_going_round(
    stand: Stand, install: Install
) -> None:
    old = install("true # old")
    install("true")
    stand.start(RUN_SCRIPTS="1")
    stand.logged("serving")
    (stand.settings.scripts / "wanted").rmdir()
    stand.enqueue(digest=old)
    outcome = stand.outcome()
    assert outcome.exitReason is ExitReason.MODULE
    assert outcome.error is not None
    assert "has not run here and cannot be asked for" in outcome.error


def test_the_workers_of_a_host_run_a_script_once(stand: Stand, install: Install) -> None:
    """The others wait until it has ended, and serve no job before."""
    count = stand.base / "count"
    install(f"echo begin >> {count}; sleep 1; echo end >> {count}")
    for _ in range(3):
        stand.start(RUN_SCRIPTS="1")
    wait_until(lambda: sum(line["message"] == "serving" for line in stand.worker_log()) == 3, 30, "all three serve")
    assert count.read_text() == "begin\nend\n"


def test_killing_the_worker_ends_the_script_too_and_it_runs_again(stand: Stand, install: Install) -> None:
    begun = stand.base / "begun"
    install(f"echo once more >> {begun}; sleep 600")
    for times in (1, 2):
        worker = stand.start(RUN_SCRIPTS="1")
        wait_until(lambda times=times: begun.exists() and len(begun.read_text().splitlines()) == times, 15)  # type: ignore[misc]
        worker.kill()
        worker.wait()
        wait_until(lambda: not stand.processes(), 10, "nothing of the script lives on")

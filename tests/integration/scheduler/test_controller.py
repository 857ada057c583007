"""The controller against a real Orthanc, Valkey and ledger: from an event to published results, and its repairs."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
import requests

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.vocabulary import EventKind, ExitReason, RepairKind
from tests.dicom import make_study, upload
from tests.integration.scheduler.platform import YES, HandWorker, Platform, hangs_once, hasten, send
from tests.servers import OrthancServer, ValkeyServer
from tests.waiting import wait_until


def test_a_study_runs_its_jobs_in_order_and_publishes_their_results(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    callback = """
        def applies(jobName, headers, params, added_params):
            if jobName == "declined":
                return False
            return headers["Modality"] == "CT", {"by": jobName, "seen": sorted(added_params)}
    """
    jobs = [
        {"jobName": "second", "dependsOn": "first"},
        {"jobName": "first", "params": {"threshold": 3}},
        {"jobName": "declined", "sortPosition": 1},
        {"jobName": "orphan", "dependsOn": "declined"},
    ]
    platform.install("svc", jobs, callback, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    first = worker.run(text="one")
    assert (first.jobName, first.params) == ("first", {"threshold": 3})
    second = worker.run(text="two")
    assert second.jobName == "second"
    assert second.inputs == {"first": f"results/{study.study_id}/first"}
    assert second.outcomes["first"]["state"] == "finished"
    found = platform.wait_for(study.study_id, "finished")
    assert platform.states(study.study_id) == {
        "first": "finished", "second": "finished", "declined": "declined", "orphan": "skipped",
    }  # fmt: skip
    assert "declined" in str(platform.jobs(study.study_id)["orphan"]["reason"])
    results = platform.settings.data / "results" / study.study_id
    assert (results / "first" / "result.txt").read_text() == "one"
    assert (results / "second" / "result.txt").read_text() == "two"
    assert found["modalities"] == ["CT"]
    with redis.Redis.from_url(platform.transport.url) as client:
        wait_until(
            lambda: not client.keys("dcmproc:order:*") and not client.keys("dcmproc:claim:*"), 5, "keys are gone"
        )


def test_the_hook_and_the_change_of_one_revision_plan_it_once(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "only"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    platform.announce(study.study_id)
    HandWorker(platform).run()
    platform.wait_for(study.study_id, "finished")

    def change_was_dealt_with() -> bool:
        events = platform.study(study.study_id)["events"]
        return any(event["kind"] == "change" and event["handledAt"] for event in events)

    wait_until(change_was_dealt_with, 20, "the StableStudy change was seen")
    assert len(platform.study(study.study_id)["plans"]) == 1


def test_a_study_whose_hook_never_came_is_found_in_changes(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = send(orthanc, tmp_path / "study")
    found = platform.wait_for(study.study_id, "finished")
    assert found["reason"] == "no job applies"
    assert found["plans"][0]["reason"] == "change"


def test_a_database_that_is_empty_when_the_controller_begins_gets_its_schema(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer
) -> None:
    """As where it did not answer yet when the scheduler began."""
    study_id = "00000000-11111111-22222222-33333333-44444444"
    platform = Platform(tmp_path / "base", valkey, orthanc)
    platform.ledger.close()
    folder = platform.settings.BASEDIR / "db"
    for file in folder.iterdir():
        file.unlink()

    def answers() -> bool:
        with suppress(LedgerUnavailableError):
            platform.ledger.check()
            return True
        return False

    with platform:
        wait_until(answers, 20, "the ledger has its schema")
        platform.announce(study_id)
        platform.wait_for(study_id, "unplanned")
    assert (folder / "ledger.sqlite").stat().st_mode & 0o077 == 0


def test_studies_from_before_are_known_and_not_planned_until_they_are_announced(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer
) -> None:
    study = send(orthanc, tmp_path / "study")
    with Platform(tmp_path / "base", valkey, orthanc) as platform:
        platform.wait_for(study.study_id, "known")
        platform.announce(study.study_id)
        platform.wait_for(study.study_id, "finished")


def test_what_the_platform_itself_stored_starts_nothing(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "only"}], YES, tmp_path / "source")
    study = make_study(tmp_path / "study")
    upload(orthanc.url, ("dcmproc", orthanc.password), study.files)
    platform.announce(study.study_id)
    found = platform.wait_for(study.study_id, "finished")
    assert found["plans"] == []
    assert "stored" in found["reason"]


def test_a_hook_for_a_study_that_orthanc_does_not_hold_is_told_as_unplanned(platform: Platform) -> None:
    study_id = "00000000-11111111-22222222-33333333-44444444"
    platform.announce(study_id)
    assert "Orthanc does not hold" in platform.wait_for(study_id, "unplanned")["reason"]


def test_a_callback_that_hangs_exits_or_answers_nonsense_is_errored_and_the_others_go_on(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    callback = """
        import os, time
        def applies(jobName, **kwargs):
            if jobName == "hangs":
                time.sleep(1000)
            if jobName == "exits":
                os._exit(0)
            return 3 if jobName == "nonsense" else True
    """
    jobs = [{"jobName": name} for name in ("hangs", "exits", "nonsense", "fine")] + [
        {"jobName": "dependent", "dependsOn": "hangs"}
    ]
    platform.install("svc", jobs, callback, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    assert HandWorker(platform).run().jobName == "fine"
    platform.wait_for(study.study_id, "failed")
    states = platform.states(study.study_id)
    assert states == {
        "hangs": "errored", "exits": "errored", "nonsense": "errored", "fine": "finished", "dependent": "skipped",
    }  # fmt: skip


def test_a_failed_jobs_dependents_are_skipped_at_any_depth_with_its_name(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    jobs = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}, {"jobName": "c", "dependsOn": "b"},
            {"jobName": "d", "dependsOn": "a", "onDependencyFailure": "run"}]  # fmt: skip
    platform.install("svc", jobs, YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    worker.end(worker.start().attemptId, ExitReason.EXCEPTION, error="ValueError: no", errorClass="ValueError")
    assert worker.run().jobName == "d"
    platform.wait_for(study.study_id, "failed")
    assert platform.states(study.study_id) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "finished"}
    assert "a" in str(platform.jobs(study.study_id)["b"]["reason"])


def test_an_outcome_sent_twice_is_accepted_once_and_acknowledged_each_time(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    attempt_id = worker.start().attemptId
    worker.end(attempt_id)
    worker.end(attempt_id, ExitReason.EXCEPTION, error="late")
    platform.wait_for(study.study_id, "finished")
    wait_until(lambda: platform.transport.acknowledged(attempt_id), 5)
    worker.end(attempt_id, ExitReason.EXCEPTION, error="later")
    wait_until(lambda: platform.counted() == {RepairKind.OUTCOME_OLD: 2}, 10)
    assert platform.states(study.study_id) == {"a": "finished"}


def test_redis_emptied_and_restarted_loses_no_job(
    platform: Platform, orthanc: OrthancServer, valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    wait_until(lambda: platform.states(study.study_id).get("a") == "queued", 20)
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    worker = HandWorker(platform)
    assert worker.run().jobName == "a"
    assert worker.run().jobName == "b"
    platform.wait_for(study.study_id, "finished")


def test_an_attempt_popped_by_a_worker_that_died_at_once_comes_again(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    lost = worker.pop()
    assert worker.pop(seconds=30) == lost


def test_a_lost_worker_is_replaced_twice(
    tmp_path: Path, valkey: ValkeyServer, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform(tmp_path / "base", valkey, orthanc)
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    hasten(monkeypatch)
    with platform:
        study = send(orthanc, tmp_path / "study")
        platform.announce(study.study_id)
        worker = HandWorker(platform)
        for attempt in (1, 2, 3):
            assert worker.start().attempt == attempt
        found = platform.wait_for(study.study_id, "failed", 40)
        assert platform.jobs(study.study_id)["a"]["reason"] == "worker lost 3 times"
        assert found["state"] == "failed"


def test_rerun_of_one_job_takes_what_depends_on_it_and_reuses_the_rest(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    jobs = [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}, {"jobName": "c", "dependsOn": "b"}]
    platform.install("svc", jobs, YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    for _ in jobs:
        worker.run()
    platform.wait_for(study.study_id, "finished")
    for payload in ({"jobs": ["b"]}, {"jobIds": [platform.jobs(study.study_id)["b"]["jobId"]]}):
        plans = len(platform.study(study.study_id)["plans"])
        platform.ledger.record_event(EventKind.RERUN, study.study_id, payload)
        platform.transport.wake("test")
        again = worker.run(text=f"again {payload}")
        assert again.jobName == "b"
        assert again.inputs == {"a": f"results/{study.study_id}/a"}
        assert worker.run().jobName == "c"
        platform.wait_for(study.study_id, "finished")
        assert len(platform.study(study.study_id)["plans"]) == plans + 1
        assert platform.jobs(study.study_id)["a"]["reusedFrom"]
    assert "again" in (platform.settings.data / "results" / study.study_id / "b" / "result.txt").read_text()


def test_cancel_ends_waiting_jobs_now_and_asks_for_running_ones(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    order = worker.start()
    wait_until(lambda: platform.states(study.study_id)["a"] == "started", 10)
    platform.ledger.record_event(EventKind.CANCEL, study.study_id, {"jobIds": [order.jobId]})
    platform.transport.wake("test")
    wait_until(lambda: platform.transport.announce(worker.report(order.attemptId), 1), 10, "the worker is asked to end")
    worker.end(order.attemptId, ExitReason.CANCELLED)
    platform.wait_for(study.study_id, "failed")
    assert platform.states(study.study_id) == {"a": "cancelled", "b": "skipped"}


def test_a_study_that_grew_supersedes_what_had_not_started(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    running = worker.start()
    wait_until(lambda: platform.states(study.study_id)["a"] == "started", 10)
    more = make_study(tmp_path / "more", StudyInstanceUID=study.study_instance_uid)
    upload(orthanc.url, orthanc.auth, more.files)
    platform.announce(study.study_id)
    wait_until(lambda: len(platform.study(study.study_id)["plans"]) == 2, 20, "a second plan")
    assert platform.states(study.study_id) == {"a": "waiting", "b": "waiting"}
    worker.end(running.attemptId)
    assert worker.run().planId != running.planId
    worker.run()
    platform.wait_for(study.study_id, "finished")


def test_orthanc_away_while_planning_counts_as_no_failure_of_the_study(tmp_path: Path, valkey: ValkeyServer) -> None:
    with OrthancServer(tmp_path / "orthanc") as orthanc:
        platform = Platform(tmp_path / "base", valkey, orthanc)
        study = send(orthanc, tmp_path / "study")
        orthanc.stop()
        with platform:
            platform.announce(study.study_id)
            assert "Orthanc" in platform.wait_for(study.study_id, "waiting")["reason"]
            orthanc.start()
            platform.wait_for(study.study_id, "finished", 40)


def test_planning_that_was_killed_is_tried_again(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    platform.install("svc", [{"jobName": "a"}], hangs_once(marker), tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    wait_until(marker.exists, 20, "the callback runs")
    for child in psutil.Process().children(recursive=True):
        if child.ppid() != os.getpid() and "forkserver" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    assert HandWorker(platform).run().jobName == "a"
    found = platform.wait_for(study.study_id, "finished")
    assert len(found["plans"]) == 1


def test_a_study_deleted_after_its_plan_leaves_the_ledger_as_it_is(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    platform.wait_for(study.study_id, "finished")
    requests.delete(f"{orthanc.url}/studies/{study.study_id}", auth=orthanc.auth, timeout=10)
    platform.announce(study.study_id)
    wait_until(lambda: all(event["handledAt"] for event in platform.study(study.study_id)["events"]), 20)
    assert platform.study(study.study_id)["state"] == "finished"


def test_a_study_that_is_to_run_again_says_so_at_once_and_stands_as_before_if_nothing_comes_of_it(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    platform.wait_for(study.study_id, "finished")
    platform.ledger.record_event(EventKind.RERUN, study.study_id)
    assert platform.study(study.study_id)["state"] in ("planning", "finished")
    wait_until(lambda: len(platform.study(study.study_id)["plans"]) == 2, 20)
    platform.wait_for(study.study_id, "finished")
    requests.delete(f"{orthanc.url}/studies/{study.study_id}", auth=orthanc.auth, timeout=10)
    platform.ledger.record_event(EventKind.RERUN, study.study_id)
    platform.transport.wake("test")
    wait_until(lambda: all(event["handledAt"] for event in platform.study(study.study_id)["events"]), 20)
    assert platform.study(study.study_id)["state"] == "finished"

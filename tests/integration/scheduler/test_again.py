"""What runs again, and what does not, when a study grew or somebody asks for a rerun."""

from pathlib import Path

import pytest

from dcm_processor.vocabulary import EventKind, ExitReason
from tests.dicom import StudyFiles, make_study, upload
from tests.integration.scheduler.platform import YES, HandWorker, Platform, send
from tests.servers import OrthancServer
from tests.waiting import wait_until

TWO = [{"jobName": "a"}, {"jobName": "b"}]


def rerun(platform: Platform, study: StudyFiles, payload: dict[str, list[str]] | None = None) -> None:
    """Ask for it, and wait for the plan that comes of it."""
    before = len(platform.study(study.study_id)["plans"])
    platform.ledger.record_event(EventKind.RERUN, study.study_id, payload)
    planned(platform, study, before + 1)


def planned(platform: Platform, study: StudyFiles, plans: int) -> None:
    platform.transport.wake("test")
    wait_until(lambda: len(platform.study(study.study_id)["plans"]) == plans, 20, f"{plans} plans")


def started(platform: Platform, study: StudyFiles, *names: str) -> None:
    wait_until(lambda: all(platform.states(study.study_id)[name] == "started" for name in names), 10)


def test_a_rerun_of_one_job_of_a_study_that_grew_runs_what_the_growth_touches_too(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """The study is not yet stable again; when it is, its revision has a plan in which every job saw all instances."""
    jobs = [*TWO, {"jobName": "once", "onUpdate": "ignore"}, {"jobName": "c", "dependsOn": "a", "onUpdate": "ignore"}]
    platform.install("svc", jobs, YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 3}])
    upload(orthanc.url, orthanc.auth, study.files[:1])
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    for _ in jobs:
        worker.run()
    platform.wait_for(study.study_id, "finished")
    upload(orthanc.url, orthanc.auth, study.files[1:])
    rerun(platform, study, {"jobs": ["a"]})
    again = [worker.run().jobName for _ in range(3)]
    platform.wait_for(study.study_id, "finished")
    assert sorted(again) == ["a", "b", "c"]
    assert platform.jobs(study.study_id)["once"]["reusedFrom"]


def test_a_rerun_of_one_job_stays_that_though_the_hook_comes_at_the_same_time(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", TWO, YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    worker.run(), worker.run()
    platform.wait_for(study.study_id, "finished")
    platform.stop()
    platform.ledger.record_event(EventKind.STABLE, study.study_id)
    platform.ledger.record_event(EventKind.RERUN, study.study_id, {"jobs": ["a"]})
    platform.start()
    planned(platform, study, 2)
    assert platform.states(study.study_id) == {"a": "queued", "b": "finished"}


def test_a_rerun_of_one_job_leaves_dependents_of_a_removed_service_cancelled(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """Nothing of a removed service starts, and nobody is told to rerun what cannot run."""
    platform.install("one", [{"jobName": "a"}], YES, tmp_path / "source")
    platform.install("two", [{"jobName": "b", "dependsOn": "a"}, {"jobName": "c", "dependsOn": "b"}], YES, tmp_path)
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    worker.run(), worker.run(), worker.run()
    platform.wait_for(study.study_id, "finished")
    platform.store.remove("two")
    rerun(platform, study, {"jobIds": [platform.jobs(study.study_id)["a"]["jobId"]]})
    assert worker.run().jobName == "a"
    platform.wait_for(study.study_id, "failed")
    found = platform.jobs(study.study_id)
    assert (found["b"]["state"], found["b"]["reason"]) == (
        "cancelled",
        "service two was removed, or has this job no more",
    )
    assert found["c"]["state"] in ("cancelled", "skipped")


def test_a_rerun_job_has_all_of_the_version_of_today_but_its_params_and_its_place_in_the_plan(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    before = {"jobName": "a", "timeout": 10, "params": {"threshold": 1}}
    platform.install("svc", [before, {"jobName": "b", "dependsOn": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    old = worker.start()
    worker.end(old.attemptId, ExitReason.TIMEOUT, error="too slow")
    platform.wait_for(study.study_id, "failed")
    today = {
        "jobName": "a",
        "worker": "svc.renamed",
        "timeout": "3h",
        "memory": "1G",
        "priority": "high",
        "warm": False,
        "retry": {"max": 1, "interval": [0]},
        "params": {"threshold": 2},
        "stage": "post",
    }
    platform.install("svc", [today, {"jobName": "b"}], YES, tmp_path / "today", work="def renamed():\n    pass\n")
    rerun(platform, study, {"jobIds": [old.jobId]})
    new = worker.start("high")
    assert new.digest != old.digest
    assert (new.worker, new.timeout, new.memory, new.warm) == ("svc.renamed", 10_800, 2**30, False)
    assert new.params == {"threshold": 1}
    assert platform.states(study.study_id)["b"] == "waiting"  # for a, as in the plan that it was
    worker.end(new.attemptId, ExitReason.EXCEPTION, error="once more")
    assert worker.run("high").attempt == 2  # today's retry
    assert worker.run().jobName == "b"
    platform.wait_for(study.study_id, "finished")


def test_a_job_whose_service_has_it_at_another_level_now_is_not_run_again(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a"}], YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    HandWorker(platform).run()
    platform.wait_for(study.study_id, "finished")
    platform.install("svc", [{"jobName": "a", "level": "series"}], YES, tmp_path / "today")
    rerun(platform, study, {"jobIds": [platform.jobs(study.study_id)["a"]["jobId"]]})
    found = platform.jobs(study.study_id)["a"]
    assert (found["state"], found["reason"]) == ("cancelled", "service svc was removed, or has this job no more")


def test_a_rerun_of_a_whole_study_that_grew_runs_everything(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a", "onUpdate": "ignore"}], YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 2}])
    upload(orthanc.url, orthanc.auth, study.files[:1])
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    worker.run()
    platform.wait_for(study.study_id, "finished")
    upload(orthanc.url, orthanc.auth, study.files[1:])
    rerun(platform, study)
    assert worker.run().jobName == "a"


@pytest.mark.parametrize("end", [ExitReason.DONE, ExitReason.EXCEPTION, ExitReason.LOST])
def test_a_rerun_takes_over_what_runs_beside_it_and_runs_it_only_if_that_does_not_finish(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path, end: ExitReason
) -> None:
    platform.install("svc", TWO, YES, tmp_path / "source")
    study = send(orthanc, tmp_path / "study")
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    a, b = worker.start(), worker.start()
    worker.end(a.attemptId, ExitReason.EXCEPTION, error="x")
    wait_until(lambda: platform.states(study.study_id) == {"a": "failed", "b": "started"}, 10)
    rerun(platform, study, {"jobIds": [a.jobId]})
    rerun(platform, study, {"jobs": ["a"]})  # and once more: it is still that first run which is waited for
    assert platform.jobs(study.study_id)["b"]["reusedFrom"] == b.jobId
    assert platform.states(study.study_id) == {"a": "waiting", "b": "waiting"}
    worker.end(b.attemptId, end)
    again = [worker.run().jobName for _ in range(1 if end is ExitReason.DONE else 2)]
    platform.wait_for(study.study_id, "finished")
    assert sorted(again) == (["a"] if end is ExitReason.DONE else ["a", "b"])
    ran = platform.jobs(study.study_id)["b"]
    assert (ran["reusedFrom"], ran["attempt"]) == ((b.jobId, 0) if end is ExitReason.DONE else (None, 1))


def test_what_growth_leaves_alone_is_not_run_twice_where_it_runs_right_now(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    jobs = [{"jobName": "once", "onUpdate": "ignore"}, {"jobName": "each", "level": "series"}]
    platform.install("svc", jobs, YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 1}] * 2)
    upload(orthanc.url, orthanc.auth, study.files[:1])
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    first = [worker.start(), worker.start()]
    started(platform, study, *platform.states(study.study_id))
    upload(orthanc.url, orthanc.auth, study.files[1:])
    platform.announce(study.study_id)
    planned(platform, study, 2)
    for order in first:
        worker.end(order.attemptId)
    new = worker.run()
    platform.wait_for(study.study_id, "finished")
    assert (new.jobName, new.seriesId in {order.seriesId for order in first}) == ("each", False)
    assert set(platform.states(study.study_id).values()) == {"finished"}


def test_the_reason_of_a_result_that_stands_does_not_grow_with_each_plan(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    platform.install("svc", [{"jobName": "a", "onUpdate": "ignore"}], YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 3}])
    upload(orthanc.url, orthanc.auth, study.files[:1])
    platform.announce(study.study_id)
    first = HandWorker(platform).run().jobId
    platform.wait_for(study.study_id, "finished")
    for number in (1, 2):
        upload(orthanc.url, orthanc.auth, study.files[number : number + 1])
        platform.announce(study.study_id)
        planned(platform, study, number + 1)
        assert platform.jobs(study.study_id)["a"]["reason"] == f"as in an earlier run: {first}"


def test_growth_by_its_rules_told_in_the_history(platform: Platform, orthanc: OrthancServer, tmp_path: Path) -> None:
    """Each rule once: `rerun` again, `ignore` not, series jobs for what changed alone and with what they depend on.

    What had not started is superseded, and nothing of the new plan starts before what ran has ended.
    """
    jobs = [
        {"jobName": "again"},
        {"jobName": "once", "onUpdate": "ignore"},
        {"jobName": "each", "level": "series"},
        {"jobName": "then", "level": "series", "dependsOn": "each"},
        {"jobName": "over", "level": "series", "dependsOn": "again"},
        {"jobName": "slow", "priority": "low"},
        {"jobName": "late", "dependsOn": "slow"},
    ]
    platform.install("svc", jobs, YES, tmp_path / "source")
    study = make_study(tmp_path / "study", series=[{"Modality": "CT", "instances": 1}] * 2)
    upload(orthanc.url, orthanc.auth, study.files[:1])
    platform.announce(study.study_id)
    worker = HandWorker(platform)
    slow = worker.start("low")
    [first_series] = {worker.run().seriesId for _ in range(5)} - {None}
    wait_until(lambda: list(platform.states(study.study_id).values()).count("finished") == 5, 10)
    upload(orthanc.url, orthanc.auth, study.files[1:])
    platform.announce(study.study_id)
    planned(platform, study, 2)
    found = platform.jobs(study.study_id)
    [new_series] = {job["seriesId"] for job in found.values()} - {None, first_series}
    stands = {"once", f"each/{first_series}", f"then/{first_series}"}
    assert {name for name, job in found.items() if job["state"] == "finished"} == stands
    assert {job["state"] for name, job in found.items() if name not in stands} == {"waiting"}
    history = [
        (entry["what"], entry["text"].partition("revision")) for entry in platform.study(study.study_id)["history"]
    ]
    grown, told = [entry for entry in history if entry[0] in ("grown", "planned")][1:]
    assert "".join(grown[1]) == "1 series more, 1 instances more"
    assert told[1][2].partition("; ")[2] == (
        "to run: again, each, slow, late, over (2), then; stands as it ended before: each, once, then; "
        "superseded, not started: late; begins when these of the plan before have ended: slow"
    )
    worker.end(slow.attemptId)
    ran = [worker.run(queue) for queue in ("low", *["default"] * 6)]
    platform.wait_for(study.study_id, "finished")
    assert sorted((order.jobName, order.seriesId) for order in ran if order.seriesId) == sorted(
        [("each", new_series), ("then", new_series), ("over", first_series), ("over", new_series)]
    )
    assert sorted(order.jobName for order in ran if not order.seriesId) == ["again", "late", "slow"]
    assert platform.study(study.study_id)["history"][-1]["text"] == "10 finished"

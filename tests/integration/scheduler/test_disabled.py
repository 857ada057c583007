"""A service that is disabled while studies come: not asked for new plans, explained, and what was planned goes on."""

from pathlib import Path

from scheduler import planning
from tests.integration.scheduler.platform import YES, HandWorker, Platform, send
from tests.servers import OrthancServer


def test_a_disabled_service_is_left_out_of_new_plans_and_what_was_planned_goes_on(
    platform: Platform, orthanc: OrthancServer, tmp_path: Path
) -> None:
    """Through a restart of the controller, until it is enabled."""
    platform.install("one", [{"jobName": "a"}], YES, tmp_path / "one")
    platform.install("two", [{"jobName": "b", "dependsOn": "a"}, {"jobName": "c"}], YES, tmp_path / "two")
    first, second, third = (send(orthanc, tmp_path / name) for name in ("first", "second", "third"))
    platform.announce(first.study_id)
    platform.wait_for(first.study_id, "running")

    platform.store.disable("one")
    platform.stop()
    platform.start()
    platform.announce(second.study_id)
    platform.wait_for(second.study_id, "running")
    jobs = platform.jobs(second.study_id)
    assert {name: job["verdict"] for name, job in jobs.items()} == {"a": "disabled", "b": "skipped", "c": "scheduled"}
    assert jobs["a"]["reason"] == "its service is disabled"
    explained = planning.explain(platform.settings, third.study_id)
    assert [(job["verdict"], job["reason"]) for job in explained["jobs"] if job["jobName"] == "a"] == [
        ("disabled", "its service is disabled")
    ]
    worker = HandWorker(platform)
    for _ in range(4):
        worker.run()
    platform.wait_for(first.study_id, "finished")
    platform.wait_for(second.study_id, "finished")
    assert platform.states(first.study_id) == {"a": "finished", "b": "finished", "c": "finished"}

    platform.store.enable("one")
    platform.announce(third.study_id)
    platform.wait_for(third.study_id, "running")
    assert platform.states(third.study_id)["a"] in ("queued", "started")

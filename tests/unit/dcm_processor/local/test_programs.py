"""Which programs local mode runs."""

from pathlib import Path

import pytest

from dcm_processor.local import programs
from dcm_processor.settings import Settings


@pytest.fixture(autouse=True)
def orthanc_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.shutil, "which", lambda name, path=None: f"/usr/sbin/{name}")


def _settings(**changes: object) -> Settings:
    return Settings.model_construct(**{"BASEDIR": Path("/base"), **changes})


def _names(settings: Settings, scale: int) -> list[str]:
    return [program.name for program in programs.programs(settings, scale)]


def test_everything_runs_with_as_many_workers_as_asked_for() -> None:
    assert _names(_settings(), 2) == [
        "redis", "orthanc", "scheduler", "controller", "dashboard", "worker_00", "worker_01"
    ]  # fmt: skip


def test_servers_of_others_are_used_and_not_started() -> None:
    settings = _settings(REDIS_URL="rediss://redis.example.org", ORTHANC_REST_URL="http://pacs.example.org:8042")
    assert _names(settings, 0) == ["scheduler", "controller", "dashboard"]
    assert {port.key for port in programs.ports(settings)} == {"SCHEDULER_PORT", "DASHBOARD_PORT"}


def test_a_worker_is_asked_alone_and_has_its_grace() -> None:
    """A signal to its group would hit the job and the reaper that tidies up after it."""
    worker = programs.worker(_settings(WORKER_STOP_GRACE=300), 0)
    assert worker.patience > 300
    assert worker.kill_group is False


def test_workers_end_first_and_servers_last() -> None:
    order = {program.name: program.order for program in programs.programs(_settings(), 1)}
    assert order["worker_00"] > order["controller"] > order["redis"]

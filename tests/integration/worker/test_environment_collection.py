"""Environments that nobody needs go, others stay."""

import json
import os
import time
from pathlib import Path

import pytest

from dcm_processor import service_tree
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from tests.integration.worker.test_prebuild import source
from worker.environment_collection import COLLECTED, GRACE, GRACE_OF_OTHERS, INTERVAL, collect, is_due
from worker.environments import Environment, Environments, EnvironmentUnavailableError


class Host:
    """Services and environments of a host; environments take no package, so they are made in no time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(BASEDIR=folder / "base")
        self.store = Store.of(self.settings)
        self.environments = Environments(self.settings, os.environ)

    def install(self, comment: str, name: str = "svc") -> Environment:
        """A version whose requirements differ by a comment, and its environment."""
        digest = self.store.install(name, source(self.folder, f"# {comment}\n", name)).digest
        return self.environments.provide(self.store.module_folder(name, digest), digest)

    def age(self, environment: Environment, seconds: float) -> None:
        """As if it had been made, and last used, so long ago."""
        place = self.settings.envs / environment.key
        then = time.time() - seconds
        for path in (place, place / "complete.json", place.with_name(f"{environment.key}.used")):
            if path.exists():
                os.utime(path, (then, then))

    def collect(self) -> list[str]:
        return collect(self.settings, self.store)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_no_kept_version_calls_for_goes_after_a_while(host: Host) -> None:
    gone, kept = host.install("one", "gone"), host.install("two", "kept")
    host.store.remove("gone")
    host.store.collect()
    for each in (gone, kept):
        host.age(each, GRACE - 60)
    assert host.collect() == []
    for each in (gone, kept):
        host.age(each, GRACE + 60)
    assert host.collect() == [gone.key]
    left = {path.name for path in host.settings.envs.iterdir()}
    assert gone.key not in left
    assert f"{gone.key}.log" not in left
    assert kept.python.exists()


def test_what_an_earlier_version_may_be_rolled_back_to_stays(host: Host) -> None:
    first, _ = host.install("one"), host.install("two")
    host.store.collect()
    host.age(first, GRACE + 60)
    assert host.collect() == []


def test_what_is_in_use_or_being_built_stays(host: Host) -> None:
    """However long the job that uses it runs."""
    environment = host.install("one")
    host.store.remove("svc")
    host.store.collect()
    with host.environments.using(environment):
        host.age(environment, GRACE + 60)
        assert host.collect() == []
    assert host.collect() == [environment.key]
    with pytest.raises(EnvironmentUnavailableError, match="deleted"), host.environments.using(environment):
        pass


def test_a_use_begins_the_while_anew(host: Host) -> None:
    environment = host.install("one")
    host.store.remove("svc")
    host.store.collect()
    host.age(environment, GRACE + 60)
    with host.environments.using(environment):
        pass
    assert host.collect() == []


def test_those_of_another_system_or_python_stay_for_long(host: Host) -> None:
    """Their workers share the folder, and their keys are others than ours."""
    environment = host.install("one")
    marker = host.settings.envs / environment.key / "complete.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "maker": "another"}))
    host.store.remove("svc")
    host.store.collect()
    host.age(environment, GRACE + 60)
    assert host.collect() == []
    host.age(environment, GRACE_OF_OTHERS + 60)
    assert host.collect() == [environment.key]


def test_a_build_that_never_ended_goes_too_and_so_does_what_a_collector_left(host: Host) -> None:
    host.install("one")
    half, trash = host.settings.envs / ("0" * 16), host.settings.envs / ".trash-x"
    half.mkdir()
    trash.mkdir()
    os.utime(half, (1, 1))
    assert host.collect() == [half.name]
    assert not trash.exists()


def test_where_modules_are_away_nothing_goes(host: Host) -> None:
    environment = host.install("one")
    service_tree.remove(host.settings.modules)
    host.age(environment, GRACE + 60)
    assert host.collect() == []


def test_it_looks_from_time_to_time(host: Host) -> None:
    envs = host.settings.envs
    envs.mkdir(parents=True)
    assert not is_due(envs)
    then = time.time() - INTERVAL - 1
    os.utime(envs / COLLECTED, (then, then))
    assert is_due(envs)

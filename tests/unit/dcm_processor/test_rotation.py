"""Rotation: which secrets, in which order, and what a kill at any step leaves."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dcm_processor import basedir, passwords, rotation, servers
from dcm_processor.errors import SettingsError, StackError, UsageError
from dcm_processor.rotation import Ending, exchange, rotate
from dcm_processor.servers import Texts
from dcm_processor.settings import Settings
from dcm_processor.stack_state import state_file
from tests.killing import killed_at


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings.model_construct(BASEDIR=tmp_path / "base")
    basedir.prepare(found)
    return found


def texts(settings: Settings) -> dict[str, str]:
    return {name: settings.secret(name) for name in basedir.SECRETS}


class FakeServer:
    """Holds two passwords; as Redis, which can have several at once, or as Orthanc, which only reads its file."""

    secrets: tuple[str, ...] = ("one", "two")

    def __init__(self, folder: Path, *, several: bool) -> None:
        folder.mkdir()
        self.folder = folder
        self.file = folder / "server.json"
        self._several = several
        for name in self.secrets:
            (folder / name).write_text(f"old-{name}\n")
        self.file.write_text(json.dumps({"one": "old-one", "two": "old-two", "other": "stays"}))
        self.live: dict[str, set[str]] = {}
        self.start()

    def start(self) -> None:
        configured = json.loads(self.file.read_text())
        self.live = {name: {configured[name]} for name in self.secrets}

    def check(self, texts: Texts) -> None:
        if not any(text in self.live[name] for name in self.secrets for text in texts[name]):
            raise StackError("it takes none of them")

    def expect(self, texts: Texts, fresh: Mapping[str, str]) -> None:
        if self._several:
            self.check(texts)
            for name, text in fresh.items():
                self.live[name].add(text)

    def configured(self, text: str, current: Mapping[str, str]) -> str:
        return json.dumps({**json.loads(text), **current})

    def take(self, texts: Texts, current: Mapping[str, str]) -> None:
        self.check({name: (*texts[name], current[name]) for name in self.secrets})
        if self._several:
            self.live = {name: {current[name]} for name in self.secrets}
        else:
            self.start()

    # -- what the tests look at

    def rotate(self, *names: str, running: bool = True) -> None:
        exchange(self, names or self.secrets, self.folder, running=running)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def settled(self) -> bool:
        """Secrets, configuration and server say the same, and nothing of before is kept."""
        configured = json.loads(self.file.read_text())
        return (
            self.live == {name: {self.text(name)} for name in self.secrets}
            and configured == {**{name: self.text(name) for name in self.secrets}, "other": "stays"}
            and not (self.folder / ".previous").exists()
        )


@pytest.fixture(params=[True, False], ids=["several passwords at once", "one password"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], FakeServer]:
    number = itertools.count()
    return lambda: FakeServer(tmp_path / str(next(number)), several=request.param)


def test_a_server_takes_the_new_text_and_no_other(server: Callable[[], FakeServer]) -> None:
    found = server()
    found.rotate("one")
    assert found.settled()
    assert found.text("one") != "old-one"
    assert found.text("two") == "old-two"


def test_a_server_that_does_not_run_finds_the_new_text_at_its_start(server: Callable[[], FakeServer]) -> None:
    found = server()
    found.rotate(running=False)
    found.start()
    assert found.settled()


@pytest.mark.parametrize("names", [("one",), ("one", "two")])
@pytest.mark.parametrize("then", ["it runs on", "it starts again", "it is stopped, and started after the rotation"])
def test_killed_at_any_step_it_is_mended_by_the_next(
    server: Callable[[], FakeServer], names: tuple[str, ...], then: str
) -> None:
    for step in itertools.count(1):
        found = server()
        if not killed_at(step, lambda found=found: found.rotate(*names), rotation, basedir):
            break
        if then == "it starts again":
            found.start()
        found.rotate(*names, running=not then.startswith("it is stopped"))
        if then.startswith("it is stopped"):
            found.start()
        assert found.settled(), step
    assert step > 40


def test_killed_twice_it_is_mended_too(server: Callable[[], FakeServer]) -> None:
    for first, second in itertools.product(range(20, 80, 6), repeat=2):
        found = server()
        killed_at(first, found.rotate, rotation, basedir)
        killed_at(second, found.rotate, rotation, basedir)
        found.rotate()
        assert found.settled(), (first, second)


def test_killed_at_any_step_another_secret_of_the_server_can_be_rotated(server: Callable[[], FakeServer]) -> None:
    for step in itertools.count(1):
        found = server()
        if not killed_at(step, lambda found=found: found.rotate("one"), rotation, basedir):
            break
        found.rotate("two")
        assert found.settled(), step


def test_whoever_connects_to_a_server_with_several_is_let_in_at_every_step(tmp_path: Path) -> None:
    for step in itertools.count(1):
        found = FakeServer(tmp_path / f"server {step}", several=True)
        killed = killed_at(step, found.rotate, rotation, basedir)
        assert all(found.text(name) in found.live[name] for name in found.secrets), step
        if not killed:
            break


def test_a_server_that_takes_none_of_the_texts_is_left_as_it_is(server: Callable[[], FakeServer]) -> None:
    found = server()
    found.live = {"one": {"by hand"}, "two": {"by hand"}}
    with pytest.raises(StackError):
        found.rotate()
    assert (found.text("one"), found.text("two")) == ("old-one", "old-two")
    assert not (found.folder / ".previous").exists()


# -- the seven of an installation


def test_with_nothing_running_all_get_new_texts_in_their_files_and_configuration(settings: Settings) -> None:
    from dcm_processor import server_files

    settings.redis_conf.write_text(server_files.redis_conf(settings))
    settings.orthanc_json.parent.mkdir()
    settings.orthanc_json.write_text(server_files.orthanc_json(settings, {"StableAge": 7}))
    before = texts(settings)
    paths = [*(settings.secrets / name for name in basedir.SECRETS), settings.redis_conf, settings.orthanc_json]
    inodes = [path.stat().st_ino for path in paths]
    later = settings.model_copy(update={"STABLE_AGE": 99, "REDIS_PORT": 1})
    assert [(each.name, each.ending) for each in rotate(later, ())] == [
        (name, Ending.ROTATED) for name in basedir.SECRETS
    ]
    after = texts(settings)
    assert len({*before.values(), *after.values()}) == 14
    assert [path.stat().st_ino for path in paths] == inodes
    assert settings.redis_conf.read_text() == server_files.redis_conf(settings)
    assert settings.orthanc_json.read_text() == server_files.orthanc_json(settings, {"StableAge": 7})
    assert not (settings.secrets / ".previous").exists()


def test_before_the_first_start_since_an_update_there_is_no_configuration_to_change(settings: Settings) -> None:
    assert {each.ending for each in rotate(settings, ())} == {Ending.ROTATED}
    assert not settings.redis_conf.exists()


def test_only_the_named_ones_are_rotated_each_once(settings: Settings) -> None:
    before = texts(settings)
    named = ("worker_token", "redis_password", "worker_token")
    assert [each.name for each in rotate(settings, named)] == ["redis_password", "worker_token"]
    assert {name for name, text in texts(settings).items() if text != before[name]} == set(named)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("redis-pasword", 'did you mean "redis_password"'),
        ("../run/stack.json", "there are redis_password"),
        ("", "there are redis_password"),
        (".previous", "there are redis_password"),
    ],
)
def test_a_name_that_is_none_changes_nothing_and_says_which_was_meant(settings: Settings, name: str, says: str) -> None:
    before = texts(settings)
    with pytest.raises(UsageError, match=says):
        list(rotate(settings, ("hook_token", name)))
    assert texts(settings) == before


def test_before_the_first_start_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the first start makes them"):
        list(rotate(Settings.model_construct(BASEDIR=tmp_path / "none"), ()))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"REDIS_URL": "redis://elsewhere"}, {"redis_password"}),
        ({"REDIS_HOST": "elsewhere"}, {"redis_password"}),
        ({"ORTHANC_REST_URL": "http://elsewhere:8042"}, {"orthanc_password", "orthanc_admin_password"}),
        ({"ORTHANC_REST_PASSWORD": "mine"}, {"orthanc_password"}),
        (
            {"SCHEDULER_HOST": "elsewhere"},
            {"hook_token", "worker_token", "scheduler_token", "dashboard_password"},
        ),
    ],
)
def test_what_is_another_s_is_left_untouched_and_said(
    settings: Settings, chosen: dict[str, str], left: set[str]
) -> None:
    """A password that only they can change; a copy of what another host has."""
    before = texts(settings)
    done = list(rotate(settings.model_copy(update=chosen), ()))
    assert {each.name for each in done if each.ending is Ending.NOT_OURS} == left
    assert all(each.reason for each in done if each.name in left)
    assert {name for name, text in texts(settings).items() if text == before[name]} == left


def test_a_server_that_does_not_answer_keeps_no_other_secret_from_being_rotated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack is said to run, and Redis and Orthanc are away: their secrets stay as they are."""
    monkeypatch.setattr(servers, "PATIENCE", 0.1)
    state_file(settings).write_text("{}")
    alone = settings.model_copy(update={"REDIS_PORT": 1, "ORTHANC_PORT": 1})
    before = texts(settings)
    done = {each.name: each for each in rotate(alone, ())}
    failed = {"redis_password", "orthanc_password", "orthanc_admin_password"}
    assert {name for name, each in done.items() if each.ending is Ending.FAILED} == failed
    assert "Redis does not answer" in done["redis_password"].reason
    assert "cannot be reached" in done["orthanc_password"].reason
    assert {name for name, text in texts(settings).items() if text == before[name]} == failed


def test_a_configuration_that_somebody_changed_is_said(settings: Settings) -> None:
    settings.redis_conf.write_text("port 1\n")
    (done,) = rotate(settings, ("redis_password",))
    assert done.ending is Ending.FAILED
    assert "requirepass" in done.reason


def test_a_file_that_is_gone_or_another_user_s_is_named(settings: Settings) -> None:
    (settings.secrets / "hook_token").unlink()
    (done,) = rotate(settings, ("hook_token",))
    assert done.ending is Ending.FAILED
    assert "hook_token cannot be used (No such file or directory)" in done.reason


@pytest.mark.parametrize("own", ["", "short\n", "x" * 200, "two\nlines\n"])
def test_a_text_of_ones_own_is_replaced_whatever_its_length(settings: Settings, own: str) -> None:
    for name in ("hook_token", "redis_password"):
        (settings.secrets / name).write_text(own)
        (done,) = rotate(settings, (name,))
        assert done.ending is Ending.ROTATED
        assert len(settings.secret(name)) == 43
        assert passwords.requirepass(settings.secret(name)).count('"') == 2

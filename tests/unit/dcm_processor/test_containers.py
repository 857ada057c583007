"""What containers find under BASEDIR when they start."""

import json
from pathlib import Path

import pytest

from dcm_processor import basedir, containers
from dcm_processor.errors import SettingsError, StackError
from dcm_processor.settings import Settings
from dcm_processor.stack_state import State, state_file

MOUNTED = ("orthanc/storage", "orthanc/index", "redis/containers", "run/spool", "postgres")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_construct(BASEDIR=tmp_path / "base dir", MODE="containers")


def local_state(settings: Settings) -> State:
    state = State("now", {}, 60, {}, scale=2, socket=str(settings.run / "supervisor.sock"), mode="local")
    settings.run.mkdir(parents=True, exist_ok=True)
    state.write(settings)
    return state


class TestPrepare:
    def test_all_that_compose_mounts_is_there(self, settings: Settings) -> None:
        """Docker would make what is missing as root."""
        containers.prepare(settings)
        for name in (*MOUNTED, "registry", "modules", "data", "logs", "envs", "cache", "db"):
            assert (settings.BASEDIR / name).is_dir(), name
        for name in (*basedir.SECRETS, "postgres_password"):
            assert settings.secret(name)
        for file in (settings.redis_conf, settings.orthanc_json, settings.BASEDIR / "tls" / "server.crt"):
            assert file.is_file()
        assert settings.passfile.read_text() == f"*:*:*:*:{settings.secret('postgres_password')}\n"

    def test_a_second_time_changes_no_secret_and_no_file_s_inode(self, settings: Settings) -> None:
        """What runs has them mounted."""
        containers.prepare(settings)
        before = {path: (path.stat().st_ino, path.read_bytes()) for path in files(settings)}
        containers.prepare(settings)
        assert {path: (path.stat().st_ino, path.read_bytes()) for path in files(settings)} == before

    def test_it_says_that_containers_are_about_to_run_before_any_does(self, settings: Settings) -> None:
        containers.prepare(settings)
        state = State.read(settings)
        assert state is not None
        assert (state.mode, state.scale) == ("containers", 0)

    def test_what_runs_keeps_its_state(self, settings: Settings) -> None:
        containers.prepare(settings)
        text = state_file(settings).read_text().replace('"scale": 0', '"scale": 4')
        state_file(settings).write_text(text)
        containers.prepare(settings)
        assert state_file(settings).read_text() == text

    def test_local_mode_that_runs_from_there_is_in_the_way(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two Redis and two Orthanc on the same files would ruin them."""
        local_state(settings)
        monkeypatch.setattr(containers.Supervisor, "alive", lambda self: True)
        with pytest.raises(StackError, match=r"stop it first: `bash run.sh --local --down`"):
            containers.prepare(settings)
        assert not (settings.BASEDIR / "orthanc").exists()

    def test_local_mode_that_died_is_not(self, settings: Settings) -> None:
        local_state(settings)
        containers.prepare(settings)
        state = State.read(settings)
        assert state is not None
        assert state.mode == "containers"

    def test_servers_of_somebody_else_have_no_port_here(self, settings: Settings) -> None:
        containers.prepare(settings.model_copy(update={"ORTHANC_REST_URL": "https://pacs.example.org"}))
        assert json.loads(state_file(settings).read_text())["ports"] == {"DASHBOARD_PORT": 8080}

    def test_a_basedir_that_cannot_be_says_which_and_why(self, settings: Settings) -> None:
        settings.BASEDIR.touch()
        with pytest.raises(SettingsError, match=r"base dir.*BASEDIR"):
            containers.prepare(settings)
        with pytest.raises(SettingsError, match=r"base dir.*BASEDIR"):
            containers.prepare_workers(settings)


class TestPrepareWorkers:
    def test_every_secret_that_has_to_come_is_named(self, settings: Settings) -> None:
        with pytest.raises(SettingsError, match=r"redis_password, orthanc_password, worker_token: copy them .* to "):
            containers.prepare_workers(settings)
        (settings.secrets / "redis_password").write_text("of the first host\n")
        with pytest.raises(SettingsError, match=r"^orthanc_password, worker_token: "):
            containers.prepare_workers(settings)

    def test_it_makes_no_secret_and_no_state_of_its_own(self, settings: Settings) -> None:
        """`DATA/.dcm-processor-id` neither: it would have the workers take DATA for the first host's."""
        settings.secrets.mkdir(parents=True)
        for name in ("redis_password", "orthanc_password", "worker_token"):
            (settings.secrets / name).write_text("of the first host\n")
        containers.prepare_workers(settings)
        assert len(list(settings.secrets.iterdir())) == 3
        assert State.read(settings) is None
        assert list(settings.data.iterdir()) == []
        for name in ("registry", "modules", "envs", "cache", "run/spool"):
            assert (settings.BASEDIR / name).is_dir(), name


class FakeLedger:
    """Of a stack in which `lacks` are said, one after the other; None: the controller leads."""

    def __init__(self, lacks: list[str | None]) -> None:
        self.lacks = lacks

    def known(self) -> int:
        return 7

    def close(self) -> None:
        return


class TestStarted:
    @pytest.fixture
    def ledger(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FakeLedger:
        containers.prepare(settings)
        ledger = FakeLedger([])
        monkeypatch.setattr(containers, "Ledger", lambda url: ledger)
        monkeypatch.setattr(
            containers, "controller_lack", lambda _: ledger.lacks.pop(0) if len(ledger.lacks) > 1 else ledger.lacks[0]
        )
        return ledger

    def test_it_waits_until_what_comes_is_planned(self, settings: Settings, ledger: FakeLedger) -> None:
        ledger.lacks = ["does not lead yet", "has not met Orthanc yet", None]
        slept: list[float] = []
        state, known = containers.started(settings, 4, sleep=slept.append)
        assert (len(slept), known, state.scale) == (2, 7, 4)
        assert State.read(settings) == state

    def test_a_controller_that_does_not_get_there_is_told_with_where_to_look(
        self, settings: Settings, ledger: FakeLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger.lacks = ["has not met Orthanc yet"]
        monkeypatch.setattr(containers, "MEETING_SECONDS", -1.0)
        with pytest.raises(StackError, match=r"has not met Orthanc yet; `docker compose logs controller` says why"):
            containers.started(settings, 4, sleep=lambda _: None)


def files(settings: Settings) -> list[Path]:
    return [path for path in settings.BASEDIR.rglob("*") if path.is_file()]

"""Rotation with a real Redis and a real Orthanc, configured and reached as in local mode."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import redis
import requests
from redis.backoff import NoBackoff
from redis.retry import Retry

from dcm_processor import basedir, rotation, server_files
from dcm_processor.orthanc import Orthanc
from dcm_processor.redis_connection import connect
from dcm_processor.rotation import Ending, rotate
from dcm_processor.servers import OrthancServer as OurOrthanc
from dcm_processor.settings import CHECKOUT, Settings
from dcm_processor.stack_state import state_file
from tests.dicom import make_study, upload
from tests.killing import Killed, killed_at
from tests.servers import OrthancServer, ValkeyServer, free_port
from tests.waiting import wait_until

ONCE = Retry(NoBackoff(), 0)


class OurValkey(ValkeyServer):
    """Started from the redis.conf of an installation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.BASEDIR / "redis", settings.REDIS_PORT)
        self._settings = settings

    def command(self) -> Sequence[str]:
        return [super().command()[0], str(self._settings.redis_conf)]

    def answers(self) -> bool:
        try:
            with closing(redis.Redis(port=self.port, retry=ONCE)) as client:
                client.ping()
        except redis.AuthenticationError:
            return True  # it has one of the passwords
        except redis.RedisError:
            pass
        return False


class ConfiguredOrthanc(OrthancServer):
    """Started from the orthanc.json of an installation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.BASEDIR / "orthanc")
        self.http_port = settings.ORTHANC_PORT
        self._settings = settings

    def command(self) -> Sequence[str]:
        return [super().command()[0], str(self._settings.orthanc_json.parent)]

    @property
    def auth(self) -> tuple[str, str]:
        return ("admin", self._settings.secret("orthanc_admin_password"))


def takes(settings: Settings, password: str) -> bool:
    """Whether Redis lets in who comes with this password."""
    with closing(redis.Redis(port=settings.REDIS_PORT, password=password, retry=ONCE)) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings.model_construct(
        BASEDIR=tmp_path / "base dir", REDIS_PORT=free_port(), ORTHANC_PORT=free_port(), DICOM_PORT=free_port()
    )
    basedir.prepare(found)
    state_file(found).write_text("{}")
    return found


def rotated(settings: Settings, *names: str) -> None:
    done = list(rotate(settings, names))
    assert {each.name: each.reason for each in done} == dict.fromkeys(names, "")


class TestRedis:
    @pytest.fixture
    def server(self, settings: Settings) -> Iterator[OurValkey]:
        settings.redis_conf.write_text(server_files.redis_conf(settings))
        with OurValkey(settings) as server:
            yield server

    def test_the_old_password_is_refused_and_a_restart_takes_the_new_one(
        self, settings: Settings, server: OurValkey
    ) -> None:
        old, inode = settings.secret("redis_password"), settings.redis_conf.stat().st_ino
        with closing(connect(settings.redis_url)) as client:
            client.set("kept", "yes")
            rotated(settings.model_copy(update={"BIND_ADDRESS": "0.0.0.0"}), "redis_password")
            assert client.get("kept") == b"yes"  # who is in stays in
        new = settings.secret("redis_password")
        assert new != old
        assert (takes(settings, old), takes(settings, new)) == (False, True)
        assert settings.redis_conf.read_text() == server_files.redis_conf(settings)
        assert settings.redis_conf.stat().st_ino == inode
        server.restart()
        assert (takes(settings, old), takes(settings, new)) == (False, True)
        with closing(connect(settings.redis_url)) as client:
            assert client.get("kept") == b"yes"

    def test_whoever_connects_meanwhile_is_let_in(self, settings: Settings, server: OurValkey) -> None:
        ended, faults, connections = threading.Event(), [], 0

        def keep_connecting() -> None:
            nonlocal connections
            while not ended.is_set():
                with closing(connect(settings.redis_url, retry=ONCE)) as client:
                    try:
                        client.ping()
                        connections += 1
                    except redis.RedisError as error:
                        faults.append(error)

        threads = [threading.Thread(target=keep_connecting) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            rotated(settings, "redis_password")
        ended.set()
        for thread in threads:
            thread.join()
        assert connections > 20
        assert faults == []

    def test_killed_at_any_step_clients_get_in_and_the_next_rotation_mends_it(
        self, settings: Settings, server: OurValkey
    ) -> None:
        for step in itertools.count(1):
            if not killed_at(step, lambda: rotated(settings, "redis_password"), rotation):
                break
            between = settings.secret("redis_password")
            assert takes(settings, between), step
            rotated(settings, "redis_password")
            assert takes(settings, settings.secret("redis_password")), step
            assert not takes(settings, between), step
            assert not (settings.secrets / ".previous").exists()
        assert step > 40

    def test_killed_and_redis_restarted_the_next_rotation_mends_it(self, settings: Settings, server: OurValkey) -> None:
        """Between the secret's file and redis.conf the server comes back with the old password."""
        overwrite = basedir.overwrite
        with pytest.MonkeyPatch.context() as patch:

            def killed_before_the_configuration(path: Path, text: str) -> None:
                if path == settings.redis_conf:
                    raise Killed
                overwrite(path, text)

            patch.setattr(basedir, "overwrite", killed_before_the_configuration)
            with pytest.raises(Killed):
                rotated(settings, "redis_password")
        server.restart()
        assert not takes(settings, settings.secret("redis_password"))
        rotated(settings, "redis_password")
        assert takes(settings, settings.secret("redis_password"))
        server.restart()
        assert takes(settings, settings.secret("redis_password"))

    def test_a_password_that_was_set_by_hand_is_said_and_nothing_changes(
        self, settings: Settings, server: OurValkey
    ) -> None:
        before = settings.secret("redis_password")
        with closing(connect(settings.redis_url)) as client:
            client.config_set("requirepass", "by hand")
        (done,) = rotate(settings, ("redis_password",))
        assert done.ending is Ending.FAILED
        assert "Redis takes neither the password in the secret's file nor one from before" in done.reason
        assert settings.secret("redis_password") == before

    def test_what_redis_shows_of_it_has_no_password(self, settings: Settings, server: OurValkey) -> None:
        old = settings.secret("redis_password")
        with closing(connect(settings.redis_url)) as client:
            client.config_set("slowlog-log-slower-than", 0)
            with client.monitor() as monitor:
                rotated(settings, "redis_password")
                client.echo("the end")
                seen = []
                for command in monitor.listen():
                    seen.append(str(command))
                    if "the end" in seen[-1]:
                        break
            seen += [str(entry) for entry in client.slowlog_get(100)]
        seen.append((server.directory / "server.log").read_text())
        assert "requirepass" in "".join(seen)
        for password in (old, settings.secret("redis_password")):
            assert password not in "".join(seen)


class TestOrthanc:
    @pytest.fixture
    def server(self, settings: Settings) -> Iterator[ConfiguredOrthanc]:
        settings.orthanc_json.parent.mkdir()
        base = json.loads((CHECKOUT / "orthanc" / "orthanc.json").read_text())
        settings.orthanc_json.write_text(server_files.orthanc_json(settings, base))
        with ConfiguredOrthanc(settings) as server:
            yield server

    @pytest.fixture
    def status(self, settings: Settings) -> Callable[[str, str], int]:
        """What a user gets with a password."""
        url = f"{settings.orthanc_url}/system"
        return lambda user, password: requests.get(url, auth=(user, password), timeout=5).status_code

    def test_both_passwords_are_rotated_and_orthanc_keeps_what_it_has(
        self, settings: Settings, server: ConfiguredOrthanc, status: Callable[[str, str], int], tmp_path: Path
    ) -> None:
        """Its studies, its changes and its jobs; and its process, and all of its configuration beside the passwords."""
        study = make_study(tmp_path / "study")
        upload(server.url, server.auth, study.files)
        job = requests.post(
            f"{server.url}/studies/{study.study_id}/anonymize", json={"Asynchronous": True}, auth=server.auth, timeout=5
        ).json()["ID"]
        wait_until(
            lambda: requests.get(f"{server.url}/jobs/{job}", auth=server.auth, timeout=5).json()["State"] == "Success",
            10,
            "a job of Orthanc's ended",
        )
        before = json.loads(settings.orthanc_json.read_text())
        old = {name: settings.secret(name) for name in ("orthanc_password", "orthanc_admin_password")}
        inode = settings.orthanc_json.stat().st_ino
        with Orthanc.of(settings) as client:
            changes = client.changes(0)
            rotated(settings.model_copy(update={"STABLE_AGE": 7}), *old)
            assert client.changes(0, limit=len(changes.entries)).entries == changes.entries
            assert client.study(study.study_id).study_id == study.study_id
        assert (status("dcmproc", old["orthanc_password"]), status("admin", old["orthanc_admin_password"])) == (
            401,
            401,
        )
        assert (status("dcmproc", settings.secret("orthanc_password")), status(*server.auth)) == (200, 200)
        after = json.loads(settings.orthanc_json.read_text())
        assert {key for key in before if before[key] != after[key]} == {"RegisteredUsers"}
        assert settings.orthanc_json.stat().st_ino == inode
        assert requests.get(f"{server.url}/jobs/{job}", auth=server.auth, timeout=5).ok
        assert server.process is not None
        assert server.process.poll() is None
        log = (server.directory / "server.log").read_text()
        assert log.count("Reset request received") == 1
        assert not any(text in log for text in (*old.values(), settings.secret("orthanc_password"), server.auth[1]))

    def test_one_password_is_rotated_alone(
        self, settings: Settings, server: ConfiguredOrthanc, status: Callable[[str, str], int]
    ) -> None:
        old = server.auth
        rotated(settings, "orthanc_admin_password")
        assert (status(*old), status(*server.auth)) == (401, 200)
        assert status("dcmproc", settings.secret("orthanc_password")) == 200

    @pytest.mark.parametrize("when", ["before it is told", "just after it was told"])
    def test_killed_while_orthanc_has_the_old_password_the_next_rotation_mends_it(
        self,
        settings: Settings,
        server: ConfiguredOrthanc,
        status: Callable[[str, str], int],
        monkeypatch: pytest.MonkeyPatch,
        when: str,
    ) -> None:
        """The files have the new ones: only `.previous` has what Orthanc takes."""
        told: list[str] = []

        def killed(orthanc: Orthanc) -> None:
            if when == "just after it was told":
                reset(orthanc)
                told.append("it")
            raise Killed

        reset = Orthanc.reset
        monkeypatch.setattr(Orthanc, "reset", killed)
        old = server.auth
        with pytest.raises(Killed):
            rotated(settings, "orthanc_password", "orthanc_admin_password")
        assert settings.secret("orthanc_admin_password") != old[1]
        assert bool(told) == (when == "just after it was told")
        monkeypatch.setattr(Orthanc, "reset", reset)
        rotated(settings, "orthanc_password")
        assert (status(*old), status(*server.auth)) == (401, 200)
        assert status("dcmproc", settings.secret("orthanc_password")) == 200
        assert not (settings.secrets / ".previous").exists()

    def test_an_orthanc_that_was_started_again_meanwhile_is_not_reset(
        self, settings: Settings, server: ConfiguredOrthanc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has read the new passwords by itself."""
        take = OurOrthanc.take

        def restarted_first(ours: OurOrthanc, *arguments: object) -> None:
            server.restart()
            take(ours, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(OurOrthanc, "take", restarted_first)
        rotated(settings, "orthanc_password")
        assert "Reset request" not in (server.directory / "server.log").read_text()

    def test_passwords_that_were_changed_by_hand_are_said(self, settings: Settings, server: ConfiguredOrthanc) -> None:
        for name in ("orthanc_password", "orthanc_admin_password"):
            (settings.secrets / name).write_text("by hand\n")
        done = list(rotate(settings, ("orthanc_password",)))
        assert [each.ending for each in done] == [Ending.FAILED]
        assert "Orthanc takes neither" in done[0].reason
        assert settings.secret("orthanc_password") == "by hand"

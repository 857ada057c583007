"""The files that local mode writes for Redis, Orthanc and supervisord."""

import json
import shlex
from pathlib import Path

import pytest

from dcm_processor import basedir, server_files
from dcm_processor.local import configuration
from dcm_processor.local.processes import MARK
from dcm_processor.local.programs import Program
from dcm_processor.settings import Settings

PATHS = ["/plain", "/with space", "/my #1; folder", "/100% 'q' \"d\" $HOME", "/ü"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings.model_construct(BASEDIR=tmp_path)
    basedir.prepare(found)
    return found


def test_redis_keeps_everything_and_listens_to_this_machine_alone(settings: Settings) -> None:
    lines = server_files.redis_conf(settings).splitlines()
    assert {"bind 127.0.0.1", "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(lines)
    assert f'requirepass "{settings.secret("redis_password")}"' in lines


def test_orthanc_gets_what_is_configured_over_the_repository_s_base(settings: Settings) -> None:
    chosen = json.loads(server_files.orthanc_json(settings, {"Name": "base", "StableAge": 7}))
    assert (chosen["Name"], chosen["StableAge"], chosen["DicomAet"]) == ("base", 60, "DCMPROC")
    assert set(chosen["RegisteredUsers"]) == {"dcmproc", "admin"}
    assert chosen["AuthenticationEnabled"] is True
    assert chosen["RemoteAccessAllowed"] is False


def test_orthanc_answers_other_machines_only_where_it_is_published(settings: Settings) -> None:
    published = settings.model_copy(update={"BIND_ADDRESS": "0.0.0.0"})
    assert json.loads(server_files.orthanc_json(published, {}))["RemoteAccessAllowed"] is True


@pytest.mark.parametrize("path", PATHS)
def test_supervisord_reads_each_command_as_it_was_meant(path: str) -> None:
    from supervisor.options import UnhosedConfigParser

    command = (f"{path}/bin/python", "-m", "worker")
    parser = UnhosedConfigParser()
    parser.read_string(configuration.supervisord_conf([Program("worker_00", command, order=30)], 0o022))
    read = parser.saneget("program:worker_00", "command", expansions={})
    assert shlex.split(read) == ["setpriv", "--pdeathsig", "TERM", "--", *command]


def test_no_secret_and_no_path_of_the_installation_stands_in_supervisord_s_configuration(settings: Settings) -> None:
    text = configuration.supervisord_conf([Program("redis", ("server", "file"), order=10)], 0o022)
    assert str(settings.BASEDIR) not in text
    assert not any(settings.secret(name) in text for name in basedir.SECRETS)


def test_programs_get_the_settings_and_no_proxy_for_our_own_hosts(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(
        update={"HTTP_PROXY": "http://proxy.example.org", "NO_PROXY": "intranet.example.org", "STABLE_AGE": 2}
    )
    found = configuration.environment(settings, {"PATH": "/bin", "STABLE_AGE": "60"}, tmp_path / "socket")
    assert found["PATH"] == "/bin"
    assert found["STABLE_AGE"] == "2"
    assert found["QUEUES"] == "high default medium low gpu"
    assert found["MODE"] == "local"
    assert found["DATA"] == str(tmp_path / "data")
    assert found["HTTP_PROXY"] == "http://proxy.example.org"
    assert found["NO_PROXY"] == found["no_proxy"] == "intranet.example.org,127.0.0.1,localhost"
    assert found[MARK] == str(settings.BASEDIR)
    assert not any(settings.secret(name) in found.values() for name in basedir.SECRETS)


def test_settings_survive_the_way_through_the_environment(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a program reads is what the stack was started with."""
    changed = settings.model_copy(update={"QUEUES": ("a", "b"), "WORKER_QUEUES": ("a",), "DEFAULT_PRIORITY": "b"})
    for key, value in configuration.environment(changed, {}, tmp_path / "socket").items():
        monkeypatch.setenv(key, value)
    read = Settings.load(tmp_path)
    for key in ("QUEUES", "WORKER_QUEUES", "HEADER_FIELDS", "DEFAULT_LEVEL", "CALLBACK_TIMEOUT", "BASEDIR"):
        assert getattr(read, key) == getattr(changed, key), key
    assert read.data == changed.data

"""The configuration files of Redis and Orthanc: what is in those for containers, and that they stay the same files."""

import json
import stat
from pathlib import Path

import pytest

from dcm_processor import basedir, server_files
from dcm_processor.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings.model_construct(BASEDIR=tmp_path, MODE="containers")
    basedir.prepare(found)
    return found


def test_they_are_for_their_owner_alone(settings: Settings) -> None:
    server_files.write(settings)
    for file in (settings.redis_conf, settings.orthanc_json):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_container_that_has_them_mounted_sees_what_is_written_later(settings: Settings) -> None:
    """A mounted file is its inode; shorter texts and longer ones go into it."""
    server_files.write(settings)
    for aet in ("LONGER_THAN_ALL", "S", "DCMPROC"):
        with settings.redis_conf.open() as redis_conf, settings.orthanc_json.open() as orthanc_json:
            (settings.secrets / "redis_password").write_text(f"secret of {aet}\n")
            changed = settings.model_copy(update={"DICOM_AET": aet})
            server_files.write(changed)
            assert redis_conf.read().rstrip("\n") == server_files.redis_conf(changed).rstrip("\n")
            assert json.loads(orthanc_json.read())["DicomAet"] == aet


def test_no_file_is_written_for_a_server_of_somebody_else(settings: Settings) -> None:
    foreign = {"REDIS_URL": "redis://cache.example.org", "ORTHANC_REST_URL": "https://pacs.example.org"}
    server_files.write(settings.model_copy(update=foreign))
    assert not settings.redis_conf.exists()
    assert not settings.orthanc_json.exists()


def test_in_a_container_paths_and_ports_are_its_own(settings: Settings) -> None:
    """What .env says of ports is where Compose publishes them."""
    chosen = settings.model_copy(update={"ORTHANC_PORT": 18042, "DICOM_PORT": 14242, "BASEDIR": settings.BASEDIR})
    orthanc = json.loads(server_files.orthanc_json(chosen, {}))
    assert (orthanc["HttpPort"], orthanc["DicomPort"]) == (8042, 4242)
    assert orthanc["RemoteAccessAllowed"] is True  # with AuthenticationEnabled; its network is its own
    assert orthanc["AuthenticationEnabled"] is True
    assert str(settings.BASEDIR) not in json.dumps(orthanc)
    lines = server_files.redis_conf(chosen).splitlines()
    assert {'dir "/data"', "bind * -::*", "appendonly yes"} <= set(lines)

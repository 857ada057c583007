"""BASEDIR's folders and secrets."""

import os
import stat
from pathlib import Path

import pytest

from dcm_processor import basedir
from dcm_processor.errors import SettingsError
from dcm_processor.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_construct(BASEDIR=tmp_path / "base dir")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_secret_is_made_once_long_private_and_different(settings: Settings) -> None:
    basedir.prepare(settings)
    first = {name: settings.secret(name) for name in basedir.SECRETS}
    assert len(set(first.values())) == len(basedir.SECRETS)
    assert all(len(value) >= 32 for value in first.values())
    assert {_mode(settings.BASEDIR / "secrets" / name) for name in basedir.SECRETS} == {0o600}
    basedir.prepare(settings)
    assert {name: settings.secret(name) for name in basedir.SECRETS} == first


def test_the_names_are_those_of_the_design() -> None:
    assert set(basedir.SECRETS) == {
        "redis_password", "orthanc_password", "orthanc_admin_password", "hook_token", "worker_token",
        "scheduler_token", "dashboard_password",
    }  # fmt: skip


def test_a_secret_of_ones_own_stays_and_becomes_private(settings: Settings) -> None:
    own = settings.BASEDIR / "secrets" / "hook_token"
    own.parent.mkdir(parents=True)
    own.write_text("my own\n")
    own.chmod(0o644)
    basedir.prepare(settings)
    assert settings.secret("hook_token") == "my own"
    assert _mode(own) == 0o600


def test_an_empty_secret_is_refused_by_name(settings: Settings) -> None:
    (settings.BASEDIR / "secrets").mkdir(parents=True)
    (settings.BASEDIR / "secrets" / "hook_token").touch()
    with pytest.raises(SettingsError, match="hook_token is empty"):
        basedir.prepare(settings)


def test_what_holds_patients_or_secrets_is_for_its_owner_alone(settings: Settings) -> None:
    basedir.prepare(settings)
    assert {_mode(settings.BASEDIR / name) for name in ("secrets", "run", "db", "orthanc", "redis")} == {0o700}


def test_folders_elsewhere_are_made_too(settings: Settings, tmp_path: Path) -> None:
    basedir.prepare(settings.model_copy(update={"DATA": tmp_path / "big disk" / "data"}))
    assert (tmp_path / "big disk" / "data").is_dir()


def test_a_basedir_that_cannot_be_says_which_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file.*BASEDIR"):
        basedir.prepare(Settings.model_construct(BASEDIR=tmp_path / "file" / "base"))


class TestOverwrite:
    @pytest.mark.parametrize("before", ["", "s", "a secret of the same length\n", "longer " * 100])
    def test_the_file_stays_the_same_one_and_reads_as_the_new_text(self, tmp_path: Path, before: str) -> None:
        """As a container sees it that has this one file mounted."""
        path = tmp_path / "secret"
        path.write_text(before)
        path.chmod(0o600)
        with path.open() as mounted:
            basedir.overwrite(path, "the text that comes instead\n")
            assert mounted.read().rstrip("\n") == "the text that comes instead"
        assert path.stat().st_size == max(len(before), 28)
        assert _mode(path) == 0o600

    def test_who_goes_by_the_time_sees_a_new_one_once_the_text_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The write sets it before its bytes are there: what was read in between must not count as the new text."""
        path = tmp_path / "secret"
        path.write_text("old\n")
        times = [path.stat().st_mtime_ns]
        fsync = os.fsync

        def note(descriptor: int) -> None:
            fsync(descriptor)
            times.append(os.fstat(descriptor).st_mtime_ns)

        monkeypatch.setattr(os, "fsync", note)
        basedir.overwrite(path, "new\n")
        assert path.stat().st_mtime_ns not in times

    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            basedir.overwrite(tmp_path / "none", "text")
        assert not list(tmp_path.iterdir())

"""The configuration: .env, then .env.local, then the environment; the last wins; all faults are told together."""

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from dcm_processor.errors import SettingsError
from dcm_processor.settings import CHECKOUT, Settings


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key in Settings.model_fields:
        monkeypatch.delenv(key, raising=False)
    (tmp_path / ".env").write_text((CHECKOUT / ".env").read_text())
    return tmp_path


def test_the_committed_env_works_as_it_is_and_holds_no_secret(checkout: Path) -> None:
    settings = Settings.load(checkout)
    assert checkout / "basedir" == settings.BASEDIR
    assert (settings.DICOM_PORT, settings.ORTHANC_PORT, settings.DASHBOARD_PORT, settings.SCHEDULER_PORT) == (
        4242, 8042, 8080, 5000,
    )  # fmt: skip
    assert settings.STABLE_AGE == 60
    assert settings.QUEUES == ("high", "default", "medium", "low", "gpu")
    assert settings.WORKER_QUEUES == ("high", "default", "medium", "low")
    assert settings.starts_redis
    assert settings.starts_orthanc
    assert not [line for line in (CHECKOUT / ".env").read_text().splitlines() if "PASSWORD=" in line]


def test_the_committed_env_tells_of_every_key_but_for_what_the_start_itself_sets() -> None:
    of_the_start = {"MODE", "ALIVE_FILE", "SCRIPTS", "WORKER_UID", "WORKER_GID"}
    told = set(re.findall(r"\b[A-Z][A-Z_]+\b", (CHECKOUT / ".env").read_text()))
    assert set(Settings.model_fields) - told == of_the_start


def test_env_local_wins_over_env_and_the_environment_over_both(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".env.local").write_text("STABLE_AGE=7\nDICOM_PORT=11112\n")
    monkeypatch.setenv("DICOM_PORT", "104")
    settings = Settings.load(checkout)
    assert (settings.STABLE_AGE, settings.DICOM_PORT) == (7, 104)


def test_every_fault_is_named_at_once(checkout: Path) -> None:
    (checkout / ".env.local").write_text("STABLE_AGE=soon\nDICOM_PORT=99999\nDICOM_AET=much_too_long_for_an_ae_title\n")
    with pytest.raises(SettingsError) as caught:
        Settings.load(checkout)
    for key in ("STABLE_AGE", "DICOM_PORT", "DICOM_AET"):
        assert key in str(caught.value)


def test_a_queue_that_does_not_exist_is_refused(checkout: Path) -> None:
    (checkout / ".env.local").write_text("WORKER_QUEUES=high turbo\n")
    with pytest.raises(SettingsError, match=r"^WORKER_QUEUES and DEFAULT_PRIORITY name turbo"):
        Settings.load(checkout)


def test_in_local_mode_our_host_names_mean_this_machine(checkout: Path) -> None:
    settings = Settings.load(checkout)
    assert settings.orthanc_url == "http://127.0.0.1:8042"
    assert settings.scheduler_url == "http://127.0.0.1:5000"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


def test_an_orthanc_and_a_redis_of_somebody_else_are_used_not_started(checkout: Path) -> None:
    (checkout / ".env.local").write_text(
        "ORTHANC_REST_URL=https://pacs.example.org/orthanc/\nREDIS_URL=rediss://:word@cache.example.org:6380/1\n"
    )
    settings = Settings.load(checkout)
    assert settings.orthanc_url == "https://pacs.example.org/orthanc"
    assert settings.redis_url == "rediss://:word@cache.example.org:6380/1"
    assert not settings.starts_orthanc
    assert not settings.starts_redis


def test_secrets_are_read_from_their_files_and_a_missing_one_is_named(checkout: Path) -> None:
    settings = Settings.load(checkout)
    with pytest.raises(SettingsError, match="hook_token"):
        settings.secret("hook_token")
    secrets = checkout / "basedir" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "redis_password").write_text("a/b:c\n")
    assert settings.secret("redis_password") == "a/b:c"


def test_the_address_of_redis_names_the_passwords_file_not_the_password(checkout: Path) -> None:
    secrets = checkout / "basedir" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "redis_password").write_text("a/b:c\n")
    url = Settings.load(checkout).redis_url
    assert url == f"redis://127.0.0.1:6379/0?{urlencode({'password_file': secrets / 'redis_password'})}"


def test_other_hosts_are_reached_over_tls_where_that_is_wanted(checkout: Path) -> None:
    (checkout / ".env.local").write_text(
        "REDIS_HOST=head.example.org\nREDIS_TLS=true\nREDIS_PORT=6380\nEXTRA_CA_FILE=ca.pem\n"
        "SCHEDULER_HOST=head.example.org\nSCHEDULER_TLS=true\nSCHEDULER_PORT=5443\n"
    )
    settings = Settings.load(checkout)
    ca_file = urlencode({"ssl_ca_certs": checkout / "ca.pem"})
    assert settings.redis_url == f"rediss://head.example.org:6380/0?{ca_file}"
    assert settings.scheduler_url == "https://head.example.org:5443"


def test_room_is_a_size_and_what_is_kept_is_days_or_for_ever(checkout: Path) -> None:
    text = "DATA_BUDGET=200G\nMIN_FREE=0\nKEEP_RESULTS=0.5\nKEEP_LOGS=forever\nKEEP_LEDGER=365\n"
    (checkout / ".env.local").write_text(text)
    settings = Settings.load(checkout)
    assert (settings.DATA_BUDGET, settings.MIN_FREE) == (200 * 2**30, 0)
    kept = (settings.KEEP_RESULTS, settings.KEEP_ATTEMPTS, settings.KEEP_LOGS, settings.KEEP_LEDGER)
    assert kept == (0.5, 7, None, 365)


def test_rows_of_the_ledger_are_kept_for_a_day_at_least(checkout: Path) -> None:
    """For so long workers may ask whether outcomes of the same name were taken."""
    (checkout / ".env.local").write_text("KEEP_LEDGER=0.9\nKEEP_ATTEMPTS=0\nDATA_BUDGET=much\n")
    with pytest.raises(SettingsError) as caught:
        Settings.load(checkout)
    assert all(key in str(caught.value) for key in ("KEEP_LEDGER", "KEEP_ATTEMPTS", "DATA_BUDGET"))

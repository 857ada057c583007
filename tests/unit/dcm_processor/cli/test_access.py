"""Where commands find a scheduler, and what they say of a token or an address that is none."""

from pathlib import Path

import pytest

from dcm_processor.cli.access import Access, read_token
from dcm_processor.errors import SettingsError, UsageError
from dcm_processor.settings import Settings
from tests.unit.dcm_processor.cli.conftest import Cli

HERE = Settings.model_construct()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("the-token\n")
    path.chmod(0o600)
    return path


def test_a_token_comes_from_its_file(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    access = Access.elsewhere("https://host.example.org:5443/dcm/", token, HERE)
    assert (access.url, access.token) == ("https://host.example.org:5443/dcm", "the-token")
    assert capsys.readouterr().err == ""


def test_a_file_that_everybody_can_read_is_warned_of(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token.chmod(0o644)
    assert read_token(token) == "the-token"
    said = capsys.readouterr().err
    assert f"everybody on this machine can read {token}; `chmod 600" in said
    assert "the-token" not in said


@pytest.mark.parametrize("text", ["", "  \n", "two words", "a\nb", "caf\u00e9", "x" * 5000, "a\x00b"])
def test_what_is_no_token_is_refused_and_not_shown(token: Path, text: str) -> None:
    token.write_text(text)
    with pytest.raises(SettingsError, match="holds no token") as raised:
        read_token(token)
    assert "words" not in str(raised.value)
    assert "xxx" not in str(raised.value)


def test_a_token_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_token(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "url",
    ["host", "host:5000", "ftp://host", "http://", "http://host:0", "http://host:x", "http://h/?a=b", "http://h h/"],
)
def test_what_is_no_address_is_wrong_usage(token: Path, url: str) -> None:
    with pytest.raises(UsageError, match="like https://"):
        Access.elsewhere(url, token, HERE)


def test_a_password_in_the_address_is_wrong_usage_and_not_repeated(token: Path) -> None:
    with pytest.raises(UsageError, match="no user or password") as raised:
        Access.elsewhere("https://user:s3cret@host", token, HERE)
    assert "s3cret" not in str(raised.value)


def test_a_token_that_travels_in_the_open_is_warned_of(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Access.elsewhere("http://127.0.0.1:5000", token, HERE)
    assert capsys.readouterr().err == ""
    Access.elsewhere("http://host.example.org", token, HERE)
    assert "can be read on their way" in capsys.readouterr().err


def test_this_installations_token_goes_nowhere_else(cli: Cli) -> None:
    said = cli.refused("--url", "https://host.example.org", "study", "list", status=2)
    assert "--url needs --token-file" in said


def test_a_token_without_an_address_is_wrong_usage(cli: Cli, token: Path) -> None:
    assert "goes with --url" in cli.refused("--token-file", token, "study", "list", status=2)


def test_an_authority_that_is_no_file_is_said(cli: Cli, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTRA_CA_FILE", "/nowhere.pem")
    said = cli.refused("--url", "https://127.0.0.1:1", "--token-file", token, "study", "list")
    assert "EXTRA_CA_FILE names /nowhere.pem, which is no file" in said


def test_what_works_on_files_here_refuses_an_address(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    said = cli.refused("--url", "https://host.example.org", "service", "disable", "demo", status=2)
    assert "this works on what is on this machine" in said
    monkeypatch.setenv("DCM_PROCESSOR_URL", "https://host.example.org")
    assert "demo" in cli.refused("service", "disable", "demo")

"""The command line against a scheduler of another machine: over TLS, with a token from a file."""

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from werkzeug.serving import make_server

from dcm_processor import certificate
from dcm_processor.cli.service.list import _document
from dcm_processor.store import Store
from tests.integration.scheduler.api.stand import Installation
from tests.servers import free_port
from tests.unit.dcm_processor.cli.conftest import Cli

NAMES = ("localhost",)


class There(Installation):
    """An installation whose scheduler listens over TLS; its certificate is its own authority."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.certificates = directory / "certificates"
        certificate.make(self.certificates, NAMES)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates / "server.crt", self.certificates / "server.key")
        self._server = make_server("127.0.0.1", self.port, self.app(), threaded=True, ssl_context=context)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
        super().__exit__()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[There]:
    with structlog.testing.capture_logs(), There(tmp_path / "there") as made:
        yield made


@pytest.fixture
def cli(there: There, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """A machine on which nothing of ours is but the command line."""
    monkeypatch.setenv("BASEDIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("DCM_PROCESSOR_HOME", str(tmp_path))
    monkeypatch.setenv("EXTRA_CA_FILE", str(there.certificates / "server.crt"))
    return Cli(tmp_path)


@pytest.fixture
def token(there: There, tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text((there.base / "secrets" / "scheduler_token").read_text())
    path.chmod(0o600)
    return path


def at(there: There, token: Path, host: str = "localhost") -> Mapping[str, str]:
    return {"DCM_PROCESSOR_URL": f"https://{host}:{there.port}", "DCM_PROCESSOR_TOKEN_FILE": str(token)}


def test_options_or_environment_name_it(there: There, cli: Cli, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = there.study(1)
    where = at(there, token)
    named = ("--url", where["DCM_PROCESSOR_URL"], "--token-file", token)
    assert study in cli.done(*named, "study", "list")
    for key, value in where.items():
        monkeypatch.setenv(key, value)
    assert study in cli.done("study", "list")
    assert f"study {study}: " in cli.done("study", "show", study)


@pytest.fixture
def chosen(there: There, token: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    for key, value in at(there, token).items():
        monkeypatch.setenv(key, value)
    return cli


def test_the_services_of_another_machine_are_listed(chosen: Cli, there: There) -> None:
    assert chosen.done("service", "list", "--json") == "[]\n"
    there.install("lung")
    assert chosen.done("service", "list").splitlines()[-1].split("\t")[6] == "lung"
    (listed,) = json.loads(chosen.done("service", "list", "--json"))
    (here,) = [_document(each, None) for each in Store.of(there.settings).services()]
    assert listed.keys() == here.keys()
    assert [job["jobName"] for job in listed["jobs"]] == ["lung"]


def test_a_wrong_token_is_said_and_not_shown(chosen: Cli, token: Path) -> None:
    token.write_text("wrong")
    said = chosen.refused("study", "list")
    assert "refuses our token" in said
    assert "is it the text of that scheduler's BASEDIR/secrets/scheduler_token?" in said
    assert "wrong" not in said
    assert said.count("\n") == 1


def test_an_authority_that_is_not_known_is_said(chosen: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXTRA_CA_FILE")
    said = chosen.refused("study", "list")
    assert "an authority that is not known here signed its certificate" in said
    assert "EXTRA_CA_FILE" in said
    assert said.count("\n") == 1


def test_a_certificate_for_another_name_is_said(chosen: Cli, there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCM_PROCESSOR_URL", f"https://127.0.0.1:{there.port}")
    assert "its certificate is for other names" in chosen.refused("study", "list")


def test_nobody_there_is_said(chosen: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCM_PROCESSOR_URL", f"https://localhost:{free_port()}")
    said = chosen.refused("study", "list")
    assert "no scheduler answers at https://localhost:" in said
    assert "is the address right, and does it run?" in said


def test_a_port_without_tls_is_said(chosen: Cli, there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCM_PROCESSOR_URL", f"http://localhost:{there.port}")
    assert chosen("study", "list").exit_code == 1
    with Installation(there.base.parent.parent / "plain") as plain, plain_server(plain) as port:
        monkeypatch.setenv("DCM_PROCESSOR_URL", f"https://localhost:{port}")
        assert "what answers there does not speak it" in chosen.refused("study", "list")


class plain_server:  # noqa: N801 - used as a function
    """An installation's scheduler without TLS; gives its port."""

    def __init__(self, installation: Installation) -> None:
        self.port = free_port()
        self._server = make_server("127.0.0.1", self.port, installation.app(), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        return self.port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

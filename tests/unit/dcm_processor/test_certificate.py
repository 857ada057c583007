"""The certificate for workers on other hosts: whom it is for, that it is believed, and what it refuses."""

import ssl
import stat
from pathlib import Path

import pytest

from dcm_processor import certificate
from dcm_processor.errors import SettingsError


def shaken_hands(folder: Path, name: str) -> None:
    """A TLS handshake in memory: who trusts server.crt as an authority meets the server under that name."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client.load_verify_locations(folder / "server.crt")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)]
    while sides:
        side = sides.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            sides.append(side)


@pytest.mark.parametrize("name", ["head.example.org", "gateway-of-head", "10.0.0.5", "::1"])
def test_it_is_believed_under_each_name_it_was_made_for(tmp_path: Path, name: str) -> None:
    certificate.make(tmp_path, ["head.example.org", "gateway-of-head", "10.0.0.5", "::1"])
    shaken_hands(tmp_path, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken_hands(tmp_path, "another.example.org")


def test_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    certificate.make(tmp_path / "tls", ["localhost"])
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "tls" / "server.key").stat().st_mode) == 0o600
    assert {file.name for file in (tmp_path / "tls").iterdir()} == {"server.crt", "server.key"}


def test_what_is_there_stays(tmp_path: Path) -> None:
    """The site's own above all."""
    for name in ("server.crt", "server.key"):
        (tmp_path / name).write_text(f"the site's {name}\n")
    certificate.make(tmp_path, ["localhost"])
    assert (tmp_path / "server.crt").read_text() == "the site's server.crt\n"
    assert (tmp_path / "server.key").read_text() == "the site's server.key\n"


@pytest.mark.parametrize("there", ["server.crt", "server.key"])
def test_half_of_a_pair_is_refused(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("half\n")
    with pytest.raises(SettingsError, match=r"only one of server\.crt and server\.key"):
        certificate.make(tmp_path, ["localhost"])
    assert [file.name for file in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize("name", ["", "head_1", "a b", "-head", "head,IP:1.2.3.4", "head\nIP:1.2.3.4", "https://head"])
def test_what_is_no_name_is_refused_and_nothing_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="TLS_NAMES"):
        certificate.make(tmp_path / "tls", ["localhost", name])
    assert not (tmp_path / "tls").exists()


def test_what_was_left_by_one_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "server.crt.new").write_text("half a certificate")
    (tmp_path / "server.key.new").write_text("half a key")
    certificate.make(tmp_path, ["localhost"])
    shaken_hands(tmp_path, "localhost")


def test_a_folder_that_cannot_be_written_to_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be made"):
        certificate.make(tmp_path / "file" / "tls", ["localhost"])


def test_where_openssl_is_missing_or_fails_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="openssl"):
        certificate.make(tmp_path / "tls", ["localhost"])
    (tmp_path / "openssl").write_text('#!/bin/sh\necho "no luck" >&2\nexit 1\n')
    (tmp_path / "openssl").chmod(0o755)
    with pytest.raises(SettingsError, match=r"^openssl could not make a certificate: no luck$"):
        certificate.make(tmp_path / "tls", ["localhost"])
    (tmp_path / "openssl").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SettingsError, match="exit status 1"):
        certificate.make(tmp_path / "tls", ["localhost"])

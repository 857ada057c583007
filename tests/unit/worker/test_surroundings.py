"""What jobs and builds find in their environment."""

import sys
from pathlib import Path

import pytest

from dcm_processor.environments import build_network
from dcm_processor.settings import Settings
from worker import surroundings

WORKERS = {
    "PATH": "/bin", "REDIS_URL": "redis://:s3cr3t@h", "DATABASE_URL": "postgresql://s3cr3t@h", "LD_PRELOAD": "x.so",
    "ORTHANC_REST_PASSWORD": "s3cr3t", "WORKER_TOKEN": "s3cr3t", "PYTHONPATH": "/x", "SSL_CERT_FILE": "/ca.pem",
    "UV_NATIVE_TLS": "1", "UV_EMPTY": "",
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(BASEDIR=tmp_path, ORTHANC_REST_PASSWORD="orthanc", ORTHANC_REST_URL="http://pacs.example:8042/")


def test_a_job_gets_no_secret_but_orthancs(settings: Settings, tmp_path: Path) -> None:
    env = surroundings.of_job(settings, WORKERS, "svc", Path("/env/bin"), Path("/tmp/t"))
    assert [key for key, value in env.items() if "s3cr3t" in value] == []
    assert env["ORTHANC_REST_PASSWORD"] == "orthanc"
    assert env["ORTHANC_REST_URL"] == "http://pacs.example:8042"
    assert env["PATH"] == "/env/bin:/bin"
    assert "SSL_CERT_FILE" not in env
    assert "http_proxy" not in env


def test_a_build_gets_the_networks_settings_and_no_secret(settings: Settings) -> None:
    """Packages run code of their own while they are built."""
    env = build_network.of_build(settings, {**WORKERS, "HOME": "/nowhere"})
    assert [key for key, value in env.items() if "s3cr3t" in value] == []
    assert {"ORTHANC_REST_PASSWORD", "LD_PRELOAD", "PYTHONPATH", "UV_EMPTY"} & set(env) == set()
    assert (env["SSL_CERT_FILE"], env["UV_NATIVE_TLS"], env["PATH"]) == ("/ca.pem", "1", "/bin")
    assert env["HOME"] == str(settings.envs)  # a user without a home


def test_a_script_gets_what_a_build_does_and_what_apt_wants(settings: Settings) -> None:
    """Nor does `pip install` in it reach the platform's own environment."""
    ours = str(Path(sys.prefix) / "bin")
    named = settings.model_copy(update={"PIP_INDEX_URL": "https://pypi.example/simple", "HTTP_PROXY": "http://proxy:1"})
    env = surroundings.of_script(named, {**WORKERS, "PATH": f"{ours}:/usr/bin:/bin"})
    assert [key for key, value in env.items() if "s3cr3t" in value] == []
    assert {"ORTHANC_REST_PASSWORD", "LD_PRELOAD", "PYTHONPATH"} & set(env) == set()
    assert (env["PATH"], env["LANG"], env["DEBIAN_FRONTEND"]) == ("/usr/bin:/bin", "C.UTF-8", "noninteractive")
    assert (env["PIP_INDEX_URL"], env["http_proxy"]) == ("https://pypi.example/simple", "http://proxy:1")


def test_an_index_with_a_password_stands_in_no_command_line(settings: Settings) -> None:
    named = settings.model_copy(update={"PIP_INDEX_URL": "https://user:pw@pypi.example/simple"})
    assert build_network.of_build(named, WORKERS)["UV_DEFAULT_INDEX"] == "https://user:pw@pypi.example/simple"


def test_proxies_are_never_used_for_our_own_hosts(settings: Settings) -> None:
    proxied = settings.model_copy(update={"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intra.example"})
    env = surroundings.of_job(proxied, WORKERS, "svc", Path("/env/bin"), Path("/tmp/t"))
    assert env["HTTP_PROXY"] == env["http_proxy"] == "http://proxy:3128"
    assert env["no_proxy"] == env["NO_PROXY"]
    hosts = {"intra.example", "localhost", "127.0.0.1", "orthanc", "scheduler", "redis", "pacs.example"}
    assert hosts <= set(env["NO_PROXY"].split(","))
    assert "HTTPS_PROXY" not in env


def test_an_extra_authority_is_trusted_beside_the_systems(settings: Settings, tmp_path: Path) -> None:
    extra = tmp_path / "extra.pem"
    extra.write_text("-----BEGIN CERTIFICATE-----\nextra\n-----END CERTIFICATE-----\n")
    trusting = settings.model_copy(update={"EXTRA_CA_FILE": extra})
    surroundings.make_ca_bundle(trusting)
    environ = {**WORKERS, "PIP_CERT": "/of/the/image.pem"}
    script = surroundings.of_script(trusting, environ)
    for env in (
        surroundings.of_job(trusting, environ, "svc", Path("/env/bin"), Path("/tmp/t")),
        build_network.of_build(trusting, environ),
        script,
    ):
        bundle = Path(env["SSL_CERT_FILE"]).read_text()
        for key in ("REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"):
            assert env[key] == env["SSL_CERT_FILE"]
        assert bundle.count("BEGIN CERTIFICATE") > 10
        assert bundle.endswith(extra.read_text())
    assert Path(script["APT_CONFIG"]).read_text() == f'Acquire::https::CAInfo "{script["SSL_CERT_FILE"]}";\n'

"""Environments of services, built by the real uv from wheels of the test's own."""

import http.server
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dcm_processor import certificate
from dcm_processor.environments.environment_key import recipe
from dcm_processor.environments.environment_state import state_of
from dcm_processor.settings import Settings
from tests.small_disk import small_disk
from tests.wheels import make_wheel
from worker.contained import Contained, End
from worker.environments import Environment, EnvironmentFailedError, Environments, EnvironmentUnavailableError


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    """An offline site with one package."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "tiny_offline_package", "VALUE = 1\n")
    return Settings(BASEDIR=tmp_path / "base", WHEEL_DIR=wheels)


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    """A service's requirements.txt, in its module folder."""
    path = tmp_path / "module" / "requirements.txt"
    path.parent.mkdir()
    path.write_text("tiny-offline-package\n")
    return path


@pytest.fixture
def index() -> Iterator[tuple[str, list[int]]]:
    """A package index that answers with the status the test puts into the list."""
    status: list[int] = [503]

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple", status
        server.shutdown()


def environ(**more: str) -> dict[str, str]:
    return {**os.environ, "UV_HTTP_RETRIES": "0", **more}


def value(environment: Environment) -> str:
    code = "import tiny_offline_package; print(tiny_offline_package.VALUE)"
    return subprocess.run([environment.python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout


def test_it_is_built_once_and_then_found_at_once(site: Settings, requirements: Path) -> None:
    """By however many workers at a time; in the cache it costs under 5 ms."""
    environments = Environments(site, environ())
    with capture_logs() as logs, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: environments.provide(requirements.parent, "v1"), range(4)))
    assert [each["environment"] for each in logs if each["event"] == "built an environment"] == [found[0].key]
    assert len({environment.key for environment in found}) == 1
    assert value(found[0]) == "1\n"
    began = time.perf_counter()
    for _ in range(20):
        assert environments.provide(requirements.parent, "v1") == found[0]
    assert (time.perf_counter() - began) / 20 < 0.005


def test_another_content_is_another_environment(site: Settings, requirements: Path) -> None:
    """The service's version matters only where the requirements name files that come with it."""
    environments = Environments(site, environ())
    first = environments.provide(requirements.parent, "v1")
    assert environments.provide(requirements.parent, "v2").key == first.key
    requirements.write_text("tiny-offline-package==1.0\n")
    assert environments.provide(requirements.parent, "v1").key != first.key
    (requirements.parent / "more.txt").write_text("tiny-offline-package\n")
    requirements.write_text("-r more.txt\n")
    assert environments.provide(requirements.parent, "v1").key != environments.provide(requirements.parent, "v2").key


def test_a_build_that_was_killed_is_built_anew(site: Settings, requirements: Path) -> None:
    environments = Environments(site, environ())

    def kill(running: Contained) -> End:
        running.kill("test")
        return running.wait()

    with pytest.raises(EnvironmentUnavailableError, match="uv was ended by test"):
        environments.provide(requirements.parent, "v1", watch=kill)
    environment = environments.provide(requirements.parent, "v1")
    marker = environment.python.parent.parent / "complete.json"
    marker.unlink()  # as if killed before it was written
    (environment.python.parent.parent / "leftover").write_text("x")
    environment = environments.provide(requirements.parent, "v1")
    assert value(environment) == "1\n"
    assert not marker.with_name("leftover").exists()
    environment.python.unlink()  # its Python was removed from the system
    assert value(environments.provide(requirements.parent, "v1")) == "1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiny-offline-package==9\n", "No solution found when resolving dependencies: Because"),
        ("no-such-package-anywhere\n", "No solution found"),
        ("numpy>>>1\n", "Couldn't parse requirement"),
        ("./nothing-here.whl\n", "nothing-here.whl"),
    ],
)
def test_what_cannot_be_installed(site: Settings, requirements: Path, text: str, message: str) -> None:
    """Permanent; the message says what uv said, and the end of its log comes along."""
    requirements.write_text(text)
    with pytest.raises(EnvironmentFailedError, match=message) as caught:
        Environments(site, environ(UV_OFFLINE="1")).provide(requirements.parent, "v1")
    assert "error: " in caught.value.tail
    with pytest.raises(EnvironmentFailedError):  # nothing half-made is taken for an environment
        Environments(site, environ(UV_OFFLINE="1")).provide(requirements.parent, "v1")


def test_requirements_that_contradict_each_other_live_side_by_side(site: Settings, requirements: Path) -> None:
    """As numpy<2 beside numpy>=2 does: each environment has its own, and none the other's or the platform's."""
    assert site.WHEEL_DIR is not None
    make_wheel(site.WHEEL_DIR, "tiny_offline_package", "VALUE = 2\n", "2.0")
    environments = Environments(site, environ(UV_OFFLINE="1"))
    requirements.write_text("tiny-offline-package<2\n")
    old = environments.provide(requirements.parent, "v1")
    requirements.write_text("tiny-offline-package>=2\n")
    new = environments.provide(requirements.parent, "v2")
    assert (value(old), value(new)) == ("1\n", "2\n")


def test_the_python_that_was_asked_for(site: Settings, requirements: Path, tmp_path: Path) -> None:
    """Of those on the host; one that is not there is told with those that are."""
    environments = Environments(site, environ())
    with pytest.raises(EnvironmentFailedError, match=r"Python 3\.99, which pythonVersion .* there are .*3\.\d+\.\d+"):
        environments.provide(requirements.parent, "v1", "3.99")
    assert state_of(site.envs, recipe(site, requirements.parent, "v1", "3.99").key).state == "failed"
    other = next((path for path in others() if path.exists()), None)
    if other is None:  # a machine with one Python has shown what it can
        return
    wanted = version_of(other)
    elsewhere = Environments(site, environ(PATH=f"{other.parent}:{os.environ['PATH']}"))
    found = elsewhere.provide(requirements.parent, "v1", wanted)
    assert version_of(found.python) == wanted


def version_of(python: Path) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def others() -> list[Path]:
    """Interpreters of another minor version, as Debian, python.org's images and pyenv have them."""
    places = [Path("/usr/bin"), Path("/usr/local/bin"), *Path.home().glob(".pyenv/versions/*/bin")]
    minors = [minor for minor in range(8, 16) if minor != sys.version_info.minor]
    return [place / f"python3.{minor}" for place in places for minor in minors]


def test_an_index_that_fails_may_work_later(site: Settings, requirements: Path, index: tuple[str, list[int]]) -> None:
    url, status = index
    settings = site.model_copy(update={"WHEEL_DIR": None, "PIP_INDEX_URL": url})
    for code, error in (
        (503, EnvironmentUnavailableError),
        (429, EnvironmentUnavailableError),
        (404, EnvironmentFailedError),
    ):
        status[0] = code
        with pytest.raises(error):
            Environments(settings, environ()).provide(requirements.parent, "v1")


def test_an_index_that_is_not_trusted_names_the_setting_that_helps(
    site: Settings, requirements: Path, tmp_path: Path
) -> None:
    """As behind a proxy that opens TLS; it may be trusted once the setting is there."""
    certificate.make(tmp_path, ["127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://reader:secret@127.0.0.1:{server.server_port}/simple"
        settings = site.model_copy(update={"WHEEL_DIR": None, "PIP_INDEX_URL": url})
        with pytest.raises(EnvironmentUnavailableError, match=r"certificate.*by EXTRA_CA_FILE in .env.local") as caught:
            Environments(settings, environ()).provide(requirements.parent, "v1")
        server.shutdown()
    assert "secret" not in f"{caught.value} {caught.value.tail}"


def test_a_service_without_requirements_has_the_packages_of_old(tmp_path: Path) -> None:
    """numpy, SimpleITK, nibabel, pydicom, requests; locked and hashed. Needs the package index."""
    environment = Environments(Settings(BASEDIR=tmp_path), environ()).provide(tmp_path, "v1")
    code = "import numpy, SimpleITK, nibabel, pydicom, requests"
    subprocess.run([environment.python, "-I", "-c", code], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_may_have_room_later(tmp_path: Path, site: Settings, requirements: Path) -> None:
    envs = site.envs
    envs.mkdir(parents=True)
    with small_disk(envs, "1m"):
        assert site.WHEEL_DIR is not None
        make_wheel(site.WHEEL_DIR, "big_package", "VALUE = '" + "x" * 3_000_000 + "'\n")
        requirements.write_text("big-package\n")
        with pytest.raises((EnvironmentUnavailableError, OSError), match=r"[Nn]o space|cannot be written"):
            Environments(site, environ()).provide(requirements.parent, "v1")

"""Locks made at an install by the real uv, from a folder of wheels and from an index of the test's own."""

import functools
import hashlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcm_processor.demo import SERVICES, Demo
from dcm_processor.environments import requirements_lock
from dcm_processor.environments.requirements_lock import Locks
from dcm_processor.manifest import Defaults
from dcm_processor.settings import CHECKOUT, Settings
from dcm_processor.store import Store
from dcm_processor.vocabulary import Level
from tests.integration.worker.conftest import gone
from tests.waiting import wait_until
from tests.wheels import make_wheel
from worker.environments import Environments

SETTINGS = '{"jobName": "svc", "worker": "svc.work", "callback": "svc.ask"}'
ENVIRON = {**os.environ, "UV_HTTP_RETRIES": "0"}
OFFLINE = {**ENVIRON, "UV_OFFLINE": "1"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for path, text in {
        "registry/settings.json": SETTINGS,
        "registry/ask.py": "def ask(): return True\n",
        "module/work.py": "def work(): pass\n",
        "module/requirements.txt": "tiny_one\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "registry", tmp_path / "modules", Defaults(Level.STUDY, "default", ("default",)))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    make_wheel(tmp_path / "wheels", "tiny_one", "", "1.0")
    return tmp_path / "wheels"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index whose tiny_one is 7.0."""
    folder = tmp_path / "index" / "simple" / "tiny-one"
    made = make_wheel(folder, "tiny_one", "", "7.0")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{made.name}#sha256={digest}">{made.name}</a>')

    class Index(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    handler = functools.partial(Index, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def settings(tmp_path: Path, **more: object) -> Settings:
    return Settings(BASEDIR=tmp_path / "base", **more)  # type: ignore[arg-type]


def test_every_host_gets_the_versions_of_the_install(tmp_path: Path, source: Path, store: Store, wheels: Path) -> None:
    """Whatever came out since; the same source again is the same version, and `upgrade` takes the newest."""
    site = settings(tmp_path, WHEEL_DIR=wheels)
    first = store.install("svc", source, locks=Locks(site, OFFLINE))
    assert (first.warnings, first.changed) == ((), True)
    module = store.module_folder("svc", first.digest)
    head, *body = (module / "requirements.lock").read_text().splitlines()
    assert head.startswith("# locked by dcm-processor at install: ")
    assert body[0] == "tiny-one==1.0 \\"
    assert "--hash=sha256:" in body[1]
    make_wheel(wheels, "tiny_one", "", "2.0")
    assert not store.install("svc", source, locks=Locks(site, OFFLINE)).changed
    python = Environments(site, OFFLINE).provide(module, first.digest).python
    assert list((python.parent.parent / "lib").rglob("tiny_one-1.0.dist-info"))
    newest = store.install("svc", source, locks=Locks(site, OFFLINE, upgrade=True))
    assert newest.changed
    assert "tiny-one==2.0" in (store.module_folder("svc", newest.digest) / "requirements.lock").read_text()


def test_a_backup_comes_back_as_the_version_it_was(tmp_path: Path, source: Path, store: Store, wheels: Path) -> None:
    site = settings(tmp_path, WHEEL_DIR=wheels)
    first = store.install("svc", source, locks=Locks(site, OFFLINE))
    place = store.backup("svc", tmp_path / "backups")
    make_wheel(wheels, "tiny_one", "", "2.0")
    store.install("svc", source, locks=Locks(site, OFFLINE, upgrade=True))
    assert store.install("svc", place, locks=Locks(site, OFFLINE)).digest == first.digest


def test_a_folder_of_wheels_for_this_platform_alone_will_do(
    tmp_path: Path, source: Path, store: Store, wheels: Path
) -> None:
    """What is required elsewhere only is not in it."""
    make_wheel(wheels, "tiny_two", "", "1.0", 'not-in-the-folder ; sys_platform == "win32"')
    (source / "module" / "requirements.txt").write_text("tiny-two\n")
    installed = store.install("svc", source, locks=Locks(settings(tmp_path, WHEEL_DIR=wheels), OFFLINE))
    assert installed.warnings == ()
    lock = (store.module_folder("svc", installed.digest) / "requirements.lock").read_text()
    assert "tiny-two==1.0" in lock
    assert "not-in-the-folder" not in lock


def test_what_cannot_be_locked_is_installed_all_the_same(tmp_path: Path, source: Path, store: Store) -> None:
    """The hosts of the workers may have what this one lacks."""
    (source / "module" / "requirements.txt").write_text("no-such-package-anywhere\n")
    installed = store.install("svc", source, locks=Locks(settings(tmp_path), OFFLINE))
    (warning,) = map(str, installed.warnings)
    assert "service svc: module/requirements.txt: its versions are not locked" in warning
    assert "no-such-package-anywhere" in warning
    assert not (store.module_folder("svc", installed.digest) / "requirements.lock").exists()


def test_an_index_is_found_behind_a_byte_order_mark(tmp_path: Path, source: Path, store: Store, index: str) -> None:
    """As editors and shells of Windows write it: uv takes it, and builds have to ask the same index."""
    requirements = f"--index-url {index}\r\ntiny-one\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (source / "module" / "requirements.txt").write_bytes(requirements.encode(encoding))
        installed = store.install("svc", source, locks=Locks(settings(tmp_path), ENVIRON))
        assert installed.warnings == ()
        text = (store.module_folder("svc", installed.digest) / "requirements.lock").read_text()
        assert text.splitlines()[1:3] == [f"--index-url {index}", "tiny-one==7.0 \\"]


_BACKEND = """
import pathlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    pathlib.Path("left").write_text("by the build")
    with zipfile.ZipFile(pathlib.Path(folder, "mine-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("mine.pth", str(pathlib.Path.cwd()))
        wheel.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n")
        wheel.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("mine-1.0.dist-info/RECORD", "mine.pth,,\\nmine-1.0.dist-info/RECORD,,\\n")
    return "mine-1.0-py3-none-any.whl"
build_editable = build_wheel
"""


@pytest.mark.parametrize("line", ["./lib/mine", "lib/mine", "-e ./lib/mine"])
def test_builds_of_a_services_own_library_change_neither_source_nor_version(
    tmp_path: Path, source: Path, store: Store, line: str
) -> None:
    """As setuptools writes build/ and *.egg-info beside what it builds."""
    folder = source / "module" / "lib" / "mine"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n'
        '[project]\nname = "mine"\ndynamic = ["version"]\n'
    )
    (folder / "back.py").write_text(_BACKEND)
    (folder / "mine.py").write_text("x = 1\n")
    (source / "module" / "requirements.txt").write_text(f"{line}\n")
    site = settings(tmp_path)
    installed = store.install("svc", source, locks=Locks(site, OFFLINE))
    assert installed.warnings == ()
    python = Environments(site, OFFLINE).provide(store.module_folder("svc", installed.digest), installed.digest).python
    assert not list(source.rglob("left"))
    store.backup("svc", tmp_path / "backups")
    subprocess.run([python, "-c", "import mine"], timeout=60, check=True)


def test_how_packages_are_to_be_built_is_part_of_the_lock(
    tmp_path: Path, source: Path, store: Store, wheels: Path
) -> None:
    (source / "module" / "requirements.txt").write_text("--only-binary tiny-one\n--no-binary other\ntiny-one\n")
    installed = store.install("svc", source, locks=Locks(settings(tmp_path, WHEEL_DIR=wheels), OFFLINE))
    assert installed.warnings == ()
    lines = (store.module_folder("svc", installed.digest) / "requirements.lock").read_text().splitlines()
    assert {"--only-binary tiny-one", "--no-binary other"} <= set(lines)


def test_a_library_in_the_services_own_folder_is_its_own(tmp_path: Path, source: Path, store: Store) -> None:
    """Where the requirements name it without `./`, too: what it was before, or in another service, is not taken."""
    site, made = settings(tmp_path), set()
    (source / "module" / "requirements.txt").write_text("wheels/mine-1.0-py3-none-any.whl\n")
    for code in ("x = 1\n", "x = 2\n"):
        make_wheel(source / "module" / "wheels", "mine", code)
        installed = store.install("svc", source, locks=Locks(site, OFFLINE))
        assert installed.warnings == ()
        environment = Environments(site, OFFLINE).provide(
            store.module_folder("svc", installed.digest), installed.digest
        )
        (library,) = (environment.python.parent.parent / "lib").rglob("mine.py")
        made.add(library.read_text())
    assert made == {"x = 1\n", "x = 2\n"}


@pytest.mark.parametrize("line", ["--index-url {}", "-i {}", "--extra-index-url {}"])
def test_an_index_that_the_requirements_name_is_asked(
    tmp_path: Path, source: Path, store: Store, index: str, line: str
) -> None:
    """By the lock, by the workers, and in the place of the site's mirror, where it says so."""
    (source / "module" / "requirements.txt").write_text(f"-r more.txt\n{line.format(index)}\n")
    (source / "module" / "more.txt").write_text("tiny-one\n")
    mirror = None if "extra" in line else "http://127.0.0.1:9/simple"
    site = settings(tmp_path, PIP_INDEX_URL=mirror)
    installed = store.install("svc", source, locks=Locks(site, ENVIRON))
    assert installed.warnings == ()
    module = store.module_folder("svc", installed.digest)
    text = (module / "requirements.lock").read_text()
    assert line.format(index) in text.splitlines()
    assert "tiny-one==7.0" in text
    assert "127.0.0.1:9" not in text
    python = Environments(site, ENVIRON).provide(module, installed.digest).python
    assert list((python.parent.parent / "lib").rglob("tiny_one-7.0.dist-info"))


def test_requirements_that_compile_for_long_are_ended(
    tmp_path: Path, source: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which version they have is told by their own code; it and all it started end, and what it said is shown."""
    pid = tmp_path / "pid"
    package = source / "module" / "slow"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\ndynamic = ["version"]\n'
    )
    (package / "slow.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    (source / "module" / "requirements.txt").write_text("./slow\n")
    monkeypatch.setattr(requirements_lock, "LIMIT", 8.0)
    said: list[str] = []
    installed = store.install("svc", source, locks=Locks(settings(tmp_path), OFFLINE, progress=said.append))
    (warning,) = map(str, installed.warnings)
    assert "uv did not end within 8 s" in warning
    assert any("locking the versions of its requirements, " in text for text in said)
    wait_until(lambda: gone(int(pid.read_text())), 10, "what uv started is gone")


def test_what_is_installed_again_elsewhere_is_the_same_version(tmp_path: Path) -> None:
    """The demo and init.sh install the same services, whichever comes first."""
    store = Store(tmp_path / "registry", tmp_path / "modules", Defaults(Level.STUDY, "default", ("default", "low")))
    locks = Locks(settings(tmp_path), ENVIRON)
    for name in SERVICES:
        first = store.install(name, CHECKOUT / "services" / name, locks=locks)
        assert first.warnings == ()
    assert Demo(None, None, store, []).install(CHECKOUT / "services", locks) == []  # type: ignore[arg-type]

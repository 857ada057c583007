"""Which script.sh a worker has to run, what it makes of their ends, and that nothing left lying about misleads it."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.errors import ServiceError
from dcm_processor.settings import Settings
from dcm_processor.store import Store
from tests.waiting import wait_until
from worker import scripts as module
from worker.scripts import Owner, Script, ScriptFailedError, Scripts

ENV = {"PATH": os.environ["PATH"]}
Install = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(BASEDIR=tmp_path / "base")


@pytest.fixture
def install(tmp_path: Path, settings: Settings) -> Install:
    """Installs a service with that script.sh; returns its version."""

    def install(script: str | bytes | None, name: str = "svc", **files: str) -> str:
        source = tmp_path / "sources" / name
        for part in ("registry", "module"):
            (source / part).mkdir(parents=True, exist_ok=True)
        job = {"jobName": name, "worker": f"{name}.w.work", "callback": f"{name}.c.asks"}
        (source / "registry" / "settings.json").write_text(json.dumps(job))
        (source / "module" / "script.sh").unlink(missing_ok=True)
        if script is not None:
            (source / "module" / "script.sh").write_bytes(script.encode() if isinstance(script, str) else script)
        for stem, text in files.items():
            (source / "module" / f"{stem}.py").write_text(text)
        return Store.of(settings).install(name, source).digest

    return install


def services(found: list[Script]) -> list[str]:
    return [script.service for script in found]


def version_script(settings: Settings, version: str, service: str = "svc") -> Script:
    script = Scripts(settings).of_version(service, version)
    assert script is not None
    return script


def test_each_current_script_is_missing_until_it_has_run(settings: Settings, install: Install) -> None:
    install("true")
    install(None, name="without")
    install("true", name="other")
    scripts = Scripts(settings)
    assert services(scripts.missing()) == ["other", "svc"]
    scripts.run_missing(ENV)
    assert scripts.missing() == []
    assert Scripts(settings).missing() == []  # and a worker that starts later knows


def test_a_script_runs_in_the_folder_of_its_version_without_a_terminal(settings: Settings, install: Install) -> None:
    version = install("pwd; cat; ls helper.py; exit 0", helper="")
    Scripts(settings).run_missing(ENV)
    [record] = settings.scripts.glob("svc-*.json")
    folder = Store.of(settings).module_folder("svc", version)
    assert json.loads(record.read_text())["tail"] == f"{folder}\nhelper.py"
    assert record.with_suffix(".log").read_text() == f"{folder}\nhelper.py\n"


def test_a_script_gets_the_environment_it_is_given_and_no_other(settings: Settings, install: Install) -> None:
    install("env")
    Scripts(settings).run_missing({**ENV, "DEBIAN_FRONTEND": "noninteractive"})
    [log] = settings.scripts.glob("svc-*.log")
    names = {line.partition("=")[0] for line in log.read_text().splitlines()}
    assert names == {"PATH", "DEBIAN_FRONTEND", "PWD", "SHLVL", "_"}


def test_it_runs_again_when_its_text_changes_and_not_when_other_files_do(settings: Settings, install: Install) -> None:
    install("true", helper="a = 1")
    scripts = Scripts(settings)
    scripts.run_missing(ENV)
    install("true", helper="a = 2")
    assert scripts.missing() == []
    install("true # new", helper="a = 2")
    assert services(scripts.missing()) == ["svc"]


def test_a_script_that_failed_is_not_tried_again_by_itself(settings: Settings, install: Install) -> None:
    version = install("echo no such package; exit 3")
    scripts = Scripts(settings)
    scripts.run_missing(ENV)
    assert scripts.missing() == []
    with pytest.raises(ScriptFailedError, match="service svc failed with exit status 3 on this worker") as failed:
        scripts.has_run(version_script(settings, version))
    assert failed.value.tail == "no such package"
    [record] = settings.scripts.glob("svc-*.json")
    assert f"delete {record} to have it tried again" in str(failed.value)
    record.unlink()
    assert services(scripts.missing()) == ["svc"]


def test_in_a_container_a_new_container_tries_again(settings: Settings, install: Install, tmp_path: Path) -> None:
    version = install("exit 1")
    contained = settings.model_copy(update={"MODE": "containers", "SCRIPTS": tmp_path / "container"})
    Scripts(contained).run_missing(ENV)
    with pytest.raises(ScriptFailedError, match="docker compose up -d --force-recreate worker"):
        Scripts(contained).has_run(version_script(contained, version))


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("kill -SEGV $$", "was ended by signal 11"),
        (b"\xff\xfe\x00 not a script", "failed with exit status 126"),
        ("sleep 600", "did not end within 1 s"),
    ],
)
def test_however_it_ends_it_is_written_down(
    settings: Settings, install: Install, monkeypatch: pytest.MonkeyPatch, script: Any, fault: str
) -> None:
    monkeypatch.setattr(module, "LIMIT", 1.0)
    version = install(script)
    scripts = Scripts(settings)
    scripts.run_missing(ENV)
    with pytest.raises(ScriptFailedError, match=fault):
        scripts.has_run(version_script(settings, version))


def test_what_a_script_leaves_running_ends_with_it(settings: Settings, install: Install, tmp_path: Path) -> None:
    """A daemon of its own session, too."""
    install(f"setsid sleep 654 & echo $! > {tmp_path}/pid")
    Scripts(settings).run_missing(ENV)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_script_failing_keeps_no_other_from_running(settings: Settings, install: Install) -> None:
    versions = {name: install(f"exit {status}", name=name) for name, status in (("aa", 1), ("bb", 0))}
    scripts = Scripts(settings)
    scripts.run_missing(ENV)
    assert scripts.has_run(version_script(settings, versions["bb"], "bb"))


def test_a_script_that_was_cut_short_runs_again(settings: Settings, install: Install, tmp_path: Path) -> None:
    """Somebody stops the worker meanwhile: what the script did is undone by nobody, but its end is not made up."""
    install(f"touch {tmp_path}/begun; sleep 600")

    def interrupt() -> None:
        wait_until((tmp_path / "begun").exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda *_: sys.exit(143))
    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(SystemExit):
            Scripts(settings).run_missing(ENV)
    finally:
        signal.signal(signal.SIGUSR2, before)
        thread.join()
    assert time.monotonic() - began < 20
    assert services(Scripts(settings).missing()) == ["svc"]


class TestWanted:
    def test_what_a_job_asked_for_runs_beside_what_is_current(self, settings: Settings, install: Install) -> None:
        old = install("true # old")
        Scripts(settings).run_missing(ENV)
        new = install("true # new")
        older = version_script(settings, old)
        next(settings.scripts.glob(f"svc-{older.digest}.json")).unlink()
        scripts = Scripts(settings)
        scripts.want("svc", old)
        assert {script.digest for script in scripts.missing()} == {
            older.digest, version_script(settings, new).digest,
        }  # fmt: skip
        scripts.run_missing(ENV)
        assert scripts.missing() == []
        assert list((settings.scripts / "wanted").iterdir()) == []

    def test_asking_where_nobody_listens_is_an_error_not_a_wait(self, settings: Settings, install: Install) -> None:
        version = install("true")
        with pytest.raises(ServiceError, match=r"has not run here and cannot be asked for: .*wanted"):
            Scripts(settings).want("svc", version)

    def test_what_else_lies_there_asks_for_nothing(self, settings: Settings, install: Install, tmp_path: Path) -> None:
        """A job can write what it likes there, and root reads it: only names count, and only a version's."""
        version = install("true")
        scripts = Scripts(settings)
        scripts.run_missing(ENV)
        wanted, outside = settings.scripts / "wanted", tmp_path / "outside"
        outside.write_text("stays")
        for name in ("svc", "svc.", f"svc.{'0' * 32}", f"..{version}", ".hidden", "svc.$(id)", "a" * 255, "\udcff"):
            (wanted / name).touch()
        (wanted / f"svc.{version[:31]}").symlink_to(outside)
        (wanted / "folder").mkdir()
        os.mkfifo(wanted / "pipe")
        assert scripts.missing() == []
        scripts.run_missing(ENV)
        assert [path.name for path in wanted.iterdir()] == ["folder"]
        assert outside.read_text() == "stays"


def test_a_record_that_cannot_be_read_counts_as_none(settings: Settings, install: Install) -> None:
    """So that jobs do not wait for ever for a script that nobody runs."""
    version = install("true")
    scripts = Scripts(settings)
    scripts.run_missing(ENV)
    [record] = settings.scripts.glob("svc-*.json")
    for text in ("", "{", "[]", '{"status": 0}', '{"status": 0, "other": 1}'):
        record.write_text(text)
        assert not scripts.has_run(version_script(settings, version))
        assert services(scripts.missing()) == ["svc"]
    scripts.run_missing(ENV)
    assert scripts.has_run(version_script(settings, version))


def test_a_script_that_is_no_file_is_none(settings: Settings, install: Install) -> None:
    version = install(None)
    (Store.of(settings).module_folder("svc", version) / "script.sh").mkdir()
    assert Scripts(settings).of_version("svc", version) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: another user is needed")
def test_what_root_leaves_in_a_module_folder_belongs_to_the_worker(
    settings: Settings, install: Install, tmp_path: Path
) -> None:
    """Files of BASEDIR are the user's, who can delete the version later; what a symlink leads to stays root's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    version = install(f"mkdir -p new/deep; touch new/deep/file; ln -s {outside} new/link")
    Scripts(settings).run_missing(ENV, Owner(12345, 54321))
    folder = Store.of(settings).module_folder("svc", version)
    for name in ("new", "new/deep", "new/deep/file", "new/link"):
        status = (folder / name).lstat()
        assert (status.st_uid, status.st_gid) == (12345, 54321)
    assert (outside.stat().st_uid, (outside / "file").stat().st_uid) == (0, 0)
    assert (settings.scripts / "wanted").stat().st_uid == 12345

"""Services on disk: whole at any moment, never changed while they run, and nothing outside of them is touched."""

import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcm_processor import service_tree, store, version_links
from dcm_processor.errors import ManifestError, ServiceError, UsageError
from dcm_processor.manifest import Defaults
from dcm_processor.sources.origin import Origin
from dcm_processor.store import Store
from dcm_processor.vocabulary import Level, Stage
from tests.killing import died_at
from tests.waiting import wait_until

BAD_NAMES = [
    "../data",
    "..",
    ".",
    "",
    "a/b",
    "/etc",
    "a b",
    "a.b",
    "-p",
    "1st",
    "a\n",
    "ä",
    "json",
    "numpy",
    "a" * 65,
    ".versions",
]


class Installation:
    """A store in an empty BASEDIR, and sources for it."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"
        self.sources = folder / "sources"
        self.registry, self.modules = self.base / "registry", self.base / "modules"
        self.base.mkdir()
        (self.base / "data").mkdir()
        (self.base / "data" / "precious").write_text("data")

    @property
    def store(self) -> Store:
        """As another process opens it."""
        return Store(self.registry, self.modules, Defaults(Level.STUDY, "default", ("default", "gpu")))

    def source(self, name: str, job: Mapping[str, Any] | None = None, files: Mapping[str, str] | None = None) -> Path:
        """A source folder; made anew if there is one of that name."""
        folder = self.sources / name
        shutil.rmtree(folder, ignore_errors=True)
        settings = {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.callback", **(job or {})}
        written = {
            "registry/settings.json": json.dumps(settings),
            "registry/callback.py": "def callback(): return True\n",
            "module/worker.py": "def worker(): pass\n",
            **(files or {}),
        }
        for path, text in written.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return folder

    def listing(self) -> dict[str, str]:
        """Everything under BASEDIR that is for anybody to see."""
        return {
            str(path.relative_to(self.base)): str(path.readlink()) if path.is_symlink() else path.read_text()
            for path in sorted(self.base.rglob("*"))
            if path.is_symlink() or (path.is_file() and path.suffix != ".pyc")
        }


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Installation]:
    yield Installation(tmp_path)
    service_tree.remove(tmp_path)  # what nobody may write to, pytest could not delete


# -- install


def test_an_installed_service_lies_where_people_look_for_it(there: Installation) -> None:
    installed = there.store.install("temp", there.source("temp"))
    assert (there.registry / "temp" / "settings.json").is_file()
    assert (there.modules / "temp" / "worker.py").is_file()
    assert str((there.registry / "temp").readlink()) == f".versions/temp/{installed.digest}"
    assert there.store.registry_folder("temp", installed.digest).resolve() == (there.registry / "temp").resolve()
    assert there.store.module_folder("temp", installed.digest).resolve() == (there.modules / "temp").resolve()
    [job] = there.store.load().jobs
    assert (job.name, job.service, job.digest) == ("temp", "temp", installed.digest)
    assert (installed.changed, [job.job_name for job in installed.jobs], installed.warnings) == (True, ["temp"], ())


def test_installing_the_same_again_changes_nothing(there: Installation) -> None:
    first = there.store.install("temp", there.source("temp"))
    before, [service] = there.listing(), there.store.services()
    again = there.store.install("temp", there.source("temp"))
    assert (again.digest, again.changed) == (first.digest, False)
    assert there.listing() == before
    assert there.store.services() == [service]


def test_a_new_version_leaves_the_old_one_as_it_was_for_the_jobs_that_run_it(there: Installation) -> None:
    """Nobody's workers are stopped, no job is interrupted: what a plan pinned stays, byte for byte, where it was."""
    old = there.store.install("temp", there.source("temp", files={"module/worker.py": "VERSION = 1\n"}))
    running = there.store.module_folder("temp", old.digest)
    with (running / "worker.py").open() as opened:
        new = there.store.install("temp", there.source("temp", files={"module/worker.py": "VERSION = 2\n"}))
        assert opened.read() == "VERSION = 1\n"
    assert (running / "worker.py").read_text() == "VERSION = 1\n"
    assert (there.modules / "temp" / "worker.py").read_text() == "VERSION = 2\n"
    [service] = there.store.services()
    assert service.versions == (new.digest, old.digest)


def test_going_back_to_an_earlier_version_makes_it_current_again(there: Installation) -> None:
    sources = [there.source("temp", files={"module/n.txt": str(number)}) and number for number in (1, 2, 1)]
    digests = [
        there.store.install("temp", there.source("temp", files={"module/n.txt": str(number)})).digest
        for number in sources
    ]
    assert digests[0] == digests[2] != digests[1]
    assert there.store.installed_digest("temp") == digests[0]


def test_the_digest_names_content_not_where_or_when_it_was_copied(there: Installation, tmp_path: Path) -> None:
    source = there.source("temp", files={"module/run.sh": "#!/bin/sh\n"})
    copied = shutil.copytree(source, tmp_path / "copied")
    (copied / "module" / "__pycache__").mkdir()
    (copied / "module" / "__pycache__" / "worker.cpython-39.pyc").write_text("")
    (copied / "registry" / ".git").mkdir()
    (copied / "registry" / ".git" / "config").write_text("")
    (copied / "module" / ".venv").mkdir()
    (copied / "module" / ".venv" / "pyvenv.cfg").write_text("")
    (copied / "module" / "old.pyc").write_text("")
    (copied / "module" / "empty").mkdir()
    digest = there.store.install("temp", source).digest
    assert there.store.install("temp", copied).digest == digest
    for change in (
        lambda: (copied / "module" / "run.sh").chmod(0o755),
        lambda: (copied / "module" / "run.sh").write_text("#!/bin/bash\n"),
        lambda: (copied / "module" / "run.sh").rename(copied / "module" / "go.sh"),
        lambda: (copied / "module" / "link").symlink_to("go.sh"),
        lambda: (copied / "registry" / "more.txt").write_text(""),
    ):
        change()
        changed = there.store.install("temp", copied).digest
        assert changed != digest
        digest = changed


def test_installed_files_can_be_run_and_read_but_not_changed(there: Installation) -> None:
    source = there.source("temp", files={"module/bin/tool": "#!/bin/sh\n", "module/data.txt": ""})
    (source / "module" / "bin" / "tool").chmod(0o700)
    there.store.install("temp", source)
    modes = {
        str(path.relative_to(there.modules / "temp")): stat.S_IMODE(path.stat().st_mode)
        for path in (there.modules / "temp").rglob("*")
    }
    assert modes == {"bin": 0o755, "bin/tool": 0o555, "data.txt": 0o444, "worker.py": 0o444}
    assert stat.S_IMODE((there.modules / "temp").stat().st_mode) == 0o755


def test_symlinks_inside_of_a_service_stay(there: Installation) -> None:
    source = there.source("temp", files={"module/weights/v1.txt": "one"})
    (source / "module" / "weights" / "current.txt").symlink_to("v1.txt")
    (source / "module" / "latest").symlink_to("weights/../weights")
    there.store.install("temp", source)
    assert str((there.modules / "temp" / "weights" / "current.txt").readlink()) == "v1.txt"
    assert (there.modules / "temp" / "latest" / "current.txt").read_text() == "one"


# -- what is refused


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("verb", ["install", "remove", "backup"])
def test_no_name_leads_out_of_basedir(there: Installation, verb: str, name: str, tmp_path: Path) -> None:
    """`service.sh remove ../data` deletes nothing."""
    there.store.install("temp", there.source("temp"))
    before = there.listing()
    calls: dict[str, Callable[[], object]] = {
        "install": lambda: there.store.install(name, there.source("temp")),
        "remove": lambda: there.store.remove(name),
        "backup": lambda: there.store.backup(name, tmp_path / "backup"),
    }
    with pytest.raises(UsageError):
        calls[verb]()
    assert there.listing() == before
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("digest", ["../../data", "", "0" * 31, "G" * 32, f"{'0' * 32}/.."])
def test_no_digest_leads_out_of_basedir(there: Installation, digest: str) -> None:
    with pytest.raises(ServiceError):
        there.store.module_folder("temp", digest)
    with pytest.raises(ServiceError):
        there.store.registry_folder("../temp", "0" * 32)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../secret", "../registry/settings.json", "nowhere", "."])
@pytest.mark.parametrize("part", ["registry", "module"])
def test_symlinks_that_leave_a_service_are_refused(there: Installation, part: str, target: str) -> None:
    source = there.source("temp")
    (there.sources / "secret").write_text("secret")
    (source / part / "sub").mkdir()
    link = source / part / "sub" / "link"
    link.symlink_to(target)
    if target == ".":
        link.unlink()
        (source / part / "up").symlink_to("sub/../..")
    with pytest.raises(ServiceError, match="symlink"):
        there.store.install("temp", source)
    assert there.store.load().jobs == ()


def test_a_part_that_is_a_symlink_out_of_the_source_is_refused(there: Installation, tmp_path: Path) -> None:
    source = there.source("temp")
    shutil.rmtree(source / "module")
    (source / "module").symlink_to("/etc")
    with pytest.raises(ServiceError, match="leads out of"):
        there.store.install("temp", source)


def test_a_pipe_in_a_source_is_refused_without_waiting_for_it(there: Installation) -> None:
    source = there.source("temp")
    os.mkfifo(source / "module" / "pipe")
    with pytest.raises(ServiceError, match="neither a file, a folder nor a symlink"):
        there.store.install("temp", source)


def test_a_source_no_service_is_that_large_is_refused(there: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_tree, "MAX_FILES", 3)
    with pytest.raises(ServiceError, match="is it the right folder"):
        there.store.install("temp", there.source("temp", files={f"module/{n}": "" for n in range(5)}))


def test_what_is_missing_in_a_source_is_named_with_the_nearest_guess(there: Installation, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(ServiceError) as caught:
            there.store.install("temp", path)
        return str(caught.value)

    source = there.source("temp")
    assert "is not there" in refusal(tmp_path / "nothing")
    assert "is no folder" in refusal(source / "module" / "worker.py")
    assert f"did you mean {source}?" in refusal(source / "registry")
    assert f"did you mean {source}?" in refusal(there.sources)
    (source / "module").rename(source / "modules")
    assert "has no module/; rename its modules/ to module/" in refusal(source)
    assert "looks like the registry/ folder itself" in refusal(source / "registry")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no registry/ and module/; a service is a folder with" in refusal(empty)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", "[1]", "\xff", '{"jobName": "temp", "worker": "temp.w", "callback": "os.system"}'],
)
def test_a_broken_settings_file_is_refused_with_the_file_and_the_reason(there: Installation, text: str) -> None:
    there.store.install("other", there.source("other"))
    before = there.listing()
    source = there.source("temp")
    (source / "registry" / "settings.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match=r"registry/settings\.json"):
        there.store.install("temp", source)
    assert there.listing() == before


def test_a_missing_settings_file_is_refused(there: Installation) -> None:
    source = there.source("temp")
    (source / "registry" / "settings.json").unlink()
    with pytest.raises(ManifestError, match="is missing"):
        there.store.install("temp", source)


@pytest.mark.parametrize(("name", "requirements"), [("torch", "torch==2.9\n"), ("sklearn", "Scikit_Learn\n")])
def test_a_service_named_like_what_it_requires_is_refused(there: Installation, name: str, requirements: str) -> None:
    """Its own `import torch` would find the service itself."""
    with pytest.raises(ManifestError, match="would hide a module of the service's own environment"):
        there.store.install(name, there.source(name, files={"module/requirements.txt": requirements}))
    assert not there.store.load().jobs
    there.store.install(name, there.source(name, files={"module/requirements.txt": "monai\n"}))


def test_a_cycle_over_services_is_refused_at_install_not_dropped_silently(there: Installation) -> None:
    there.store.install("first", there.source("first", {"dependsOn": "second"}))
    with pytest.raises(ManifestError, match=r"first → second → first|second → first → second"):
        there.store.install("second", there.source("second", {"dependsOn": "first"}))
    assert [job.name for job in there.store.load().jobs] == ["first"]


def test_a_dependency_that_is_not_installed_is_a_warning_with_the_nearest_name(there: Installation) -> None:
    there.store.install("dcm2nii", there.source("dcm2nii"))
    installed = there.store.install("temp", there.source("temp", {"dependsOn": "dcm2ni"}))
    assert 'did you mean "dcm2nii"?' in str(installed.warnings[0])


def test_a_job_name_another_service_has_is_refused_whichever_comes_first(there: Installation) -> None:
    there.store.install("middle", there.source("middle", {"jobName": "taken"}))
    for name in ("aaa", "zzz"):
        blamed = rf'service {name}: .*job "taken" is there already, in service middle'
        with pytest.raises(ManifestError, match=blamed):
            there.store.install(name, there.source(name, {"jobName": "taken"}))


def test_a_job_name_that_a_new_version_takes_from_another_service_is_refused_too(there: Installation) -> None:
    for name in ("aaa", "zzz"):
        there.store.install(name, there.source(name))
    with pytest.raises(ManifestError, match=r'service aaa: .*job "zzz" is there already, in service zzz'):
        there.store.install("aaa", there.source("aaa", {"jobName": "zzz"}))


def test_a_fault_that_was_there_before_does_not_stop_another_install(there: Installation) -> None:
    digest = there.store.install("broken", there.source("broken")).digest
    service_tree.remove(there.store.registry_folder("broken", digest))
    assert there.store.install("temp", there.source("temp")).changed


def test_python_that_cannot_be_read_is_a_warning_at_install(there: Installation) -> None:
    source = there.source("temp", files={"registry/callback.py": "def callback(:\n"})
    [warning] = there.store.install("temp", source).warnings
    assert "registry/callback.py" in str(warning)
    assert "invalid syntax" in str(warning)


# -- what lies in REGISTRY beside


def test_a_folder_put_there_by_hand_is_a_fault_and_the_rest_goes_on(there: Installation) -> None:
    there.store.install("temp", there.source("temp"))
    shutil.copytree(there.source("manual") / "registry", there.registry / "manual")
    (there.registry / "README").write_text("notes")
    registry = there.store.load()
    assert [job.name for job in registry.jobs] == ["temp"]
    [fault] = registry.faults
    assert fault.service == "manual"
    assert "by hand" in str(fault)
    assert {service.name: bool(service.faults) for service in there.store.services()} == {"manual": True, "temp": False}


@pytest.mark.parametrize("verb", ["install", "remove"])
@pytest.mark.parametrize("part", ["registry", "modules"])
def test_a_folder_put_there_by_hand_is_neither_replaced_nor_deleted(there: Installation, part: str, verb: str) -> None:
    (there.base / part / "temp").mkdir(parents=True)
    (there.base / part / "temp" / "mine.txt").write_text("mine")
    with pytest.raises(ServiceError, match="by hand"):
        there.store.install("temp", there.source("temp")) if verb == "install" else there.store.remove("temp")
    assert (there.base / part / "temp" / "mine.txt").read_text() == "mine"


def test_a_symlink_put_there_by_hand_is_never_followed_by_remove(there: Installation) -> None:
    there.registry.mkdir()
    (there.registry / "temp").symlink_to("../data")
    with pytest.raises(ServiceError, match="by hand"):
        there.store.remove("temp")
    assert (there.base / "data" / "precious").exists()
    assert "by hand" in str(there.store.load().faults[0])


def test_versions_that_are_gone_are_faults_that_say_so(there: Installation) -> None:
    digest = there.store.install("temp", there.source("temp")).digest
    there.store.install("other", there.source("other"))
    service_tree.remove(there.store.module_folder("temp", digest))
    registry = there.store.load()
    assert {job.name for job in registry.jobs} == {"temp", "other"}  # its jobs fail and say why: better than no jobs
    assert "module files" in str(registry.faults[0])
    service_tree.remove(there.store.registry_folder("temp", digest))
    registry = there.store.load()
    assert [job.name for job in registry.jobs] == ["other"]
    assert "install it again" in str(registry.faults[0])
    assert there.store.install("temp", there.source("temp")).digest == digest
    assert there.store.load().faults == ()


def test_files_of_a_version_that_were_changed_are_put_right_by_installing_it_again(there: Installation) -> None:
    digest = there.store.install("temp", there.source("temp")).digest
    path = there.modules / "temp" / "worker.py"
    path.chmod(0o644)
    path.write_text("tampered")
    assert there.store.install("temp", there.source("temp")).digest == digest
    assert path.read_text() == "def worker(): pass\n"


def test_without_any_service_there_is_an_empty_registry(there: Installation) -> None:
    assert there.store.load().jobs == ()
    assert there.store.services() == []
    assert there.store.collect() == []


# -- remove, backup


def test_a_removed_service_is_gone_for_new_plans_and_there_for_those_that_pin_it(there: Installation) -> None:
    digest = there.store.install("temp", there.source("temp")).digest
    there.store.remove("temp")
    assert there.store.load().jobs == ()
    assert not os.path.lexists(there.registry / "temp")
    assert not os.path.lexists(there.modules / "temp")
    assert (there.store.module_folder("temp", digest) / "worker.py").exists()
    assert there.store.collect({("temp", digest)}) == []
    assert there.store.collect() == [("temp", digest)]
    assert not there.store.module_folder("temp", digest).exists()


def test_removing_what_is_not_installed_names_what_is(there: Installation) -> None:
    there.store.install("dcm2nii", there.source("dcm2nii"))
    with pytest.raises(ServiceError, match=r'no service dcm2ni is installed; did you mean "dcm2nii"\?'):
        there.store.remove("dcm2ni")


def test_what_backup_wrote_can_be_changed_and_installs_again_to_the_same_version(
    there: Installation, tmp_path: Path
) -> None:
    source = there.source("temp", files={"module/bin/tool": "#!/bin/sh\n", "registry/.hidden": "x"})
    (source / "module" / "bin" / "tool").chmod(0o755)
    (source / "module" / "link").symlink_to("bin/tool")
    digest = there.store.install("temp", source).digest
    place = there.store.backup("temp", tmp_path / "new" / "backups")
    assert place == tmp_path / "new" / "backups" / "temp"
    assert sorted(path.name for path in place.iterdir()) == ["module", "registry"]
    assert [path.name for path in place.parent.iterdir()] == ["temp"]
    assert not list(place.rglob("*.pyc"))
    assert all(path.stat().st_mode & stat.S_IWUSR for path in place.rglob("*"))
    there.store.remove("temp")
    there.store.collect()
    assert there.store.install("temp", place).digest == digest


def test_a_backup_replaces_nothing_but_may_be_made_twice(there: Installation, tmp_path: Path) -> None:
    there.store.install("temp", there.source("temp"))
    place = there.store.backup("temp", tmp_path / "backups")
    assert there.store.backup("temp", tmp_path / "backups") == place
    there.store.install("temp", there.source("temp", files={"module/more.py": ""}))
    with pytest.raises(ServiceError, match="holds something else"):
        there.store.backup("temp", tmp_path / "backups")
    assert not (place / "module" / "more.py").exists()


def test_a_backup_into_the_installation_itself_is_refused(there: Installation) -> None:
    there.store.install("temp", there.source("temp"))
    for inside in (there.registry, there.modules / "temp", there.registry / "x" / ".." / "y"):
        with pytest.raises(ServiceError, match="name a folder elsewhere"):
            there.store.backup("temp", inside)


def test_a_backup_of_changed_files_is_refused(there: Installation, tmp_path: Path) -> None:
    there.store.install("temp", there.source("temp"))
    path = there.modules / "temp" / "worker.py"
    path.chmod(0o644)
    path.write_text("tampered")
    with pytest.raises(ServiceError, match="were changed"):
        there.store.backup("temp", tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


# -- several together


def test_several_services_of_one_source_are_installed_together_or_not_at_all(there: Installation) -> None:
    """They may depend on each other in any order, without a warning."""
    sources = {"b-first": there.source("b-first"), "a-second": there.source("a-second", {"dependsOn": "b-first"})}
    done = there.store.install_all(sources)
    assert [(name, installed.changed, installed.warnings) for name, installed in done.items()] == [
        ("b-first", True, ()),
        ("a-second", True, ()),
    ]
    before = there.listing()
    sources = {"b-first": there.source("b-first", files={"module/n": ""}), "c": there.source("c", {"timeout": "soon"})}
    with pytest.raises(ManifestError, match=r"service c: .*timeout"):
        there.store.install_all(sources)
    assert there.listing() == before


def test_where_the_files_of_one_service_cannot_be_written_none_of_its_source_is_installed(there: Installation) -> None:
    before = there.store.install("a", there.source("a")).digest
    (there.registry / ".versions" / "b").write_text("in the way")
    sources = {"a": there.source("a", files={"module/n": ""}), "b": there.source("b")}
    with pytest.raises(ServiceError, match="services a, b are not installed"):
        there.store.install_all(sources)
    assert there.store.current() == {"a": before}


def test_two_services_of_one_source_that_want_one_job_name_are_refused(there: Installation) -> None:
    sources = {name: there.source(name, {"jobName": "taken"}) for name in ("one", "two")}
    with pytest.raises(ManifestError, match='job "taken" is there already'):
        there.store.install_all(sources)
    assert there.store.services() == []


# -- where a version came from


ORIGIN = Origin("git+https://example.org/r.git@v1", "v1", "0" * 40, "2026-01-01T00:00:00+00:00", "1.0")


def test_where_a_version_came_from_is_kept_beside_it(there: Installation) -> None:
    there.store.install("temp", there.source("temp"), ORIGIN)
    [service] = there.store.services()
    assert service.origin == ORIGIN
    later = replace(ORIGIN, ref="v2")
    there.store.install("temp", there.source("temp"), later)  # the same content from elsewhere
    [service] = there.store.services()
    assert service.origin == later


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source": 1, "ref": null, "commit": null, "at": "", "by": ""}'])
def test_an_origin_that_cannot_be_read_is_none(there: Installation, text: str) -> None:
    digest = there.store.install("temp", there.source("temp"), ORIGIN).digest
    (there.registry / ".versions" / "temp" / f"{digest}.json").write_text(text)
    [service] = there.store.services()
    assert (service.origin, service.faults, service.versions) == (None, (), (digest,))


def test_an_origin_goes_with_its_version(there: Installation) -> None:
    there.store.install("temp", there.source("temp"), ORIGIN)
    there.store.remove("temp")
    there.store.collect()
    assert list((there.registry / ".versions" / "temp").iterdir()) == []


# -- rollback


def versions(there: Installation, count: int) -> list[str]:
    """Install so many versions; each is a second younger than the one before."""
    digests = []
    for number in range(count):
        digests.append(there.store.install("temp", there.source("temp", files={"module/n": str(number)})).digest)
        for folder in (there.store.registry_folder, there.store.module_folder):
            os.utime(folder("temp", digests[-1]), (number, number))
    return digests


def test_a_rollback_makes_the_version_before_current_and_a_second_one_goes_forward_again(there: Installation) -> None:
    first, second, third = versions(there, 3)
    with (there.modules / "temp" / "n").open() as opened:  # as a running job has it
        rolled = there.store.rollback("temp")
        assert (rolled.digest, rolled.before) == (second, third)
        assert opened.read() == "2"
    assert (there.modules / "temp" / "n").read_text() == "1"
    assert there.store.installed_digest("temp") == second
    assert there.store.rollback("temp").digest == third
    assert there.store.rollback("temp", first[:5]).digest == first


def test_a_rollback_goes_to_no_version_that_never_was_current(there: Installation) -> None:
    """As an install that was killed may leave one."""
    _, first, second = versions(there, 3)
    pristine = shutil.copytree(there.base, there.base.with_name("pristine"), symlinks=True)
    source = there.source("temp", files={"module/n": "never"})
    left = 0
    for step in range(1000):
        service_tree.remove(there.base)
        shutil.copytree(pristine, there.base, symlinks=True)
        status = died_at(step, lambda: there.store.install("temp", source))
        if there.store.installed_digest("temp") == second:
            left += len(there.store.services()[0].versions) > 3
            assert there.store.rollback("temp").digest == first
        if status == 0:
            break
    assert left > 0


def test_a_version_that_was_put_right_is_still_the_one_to_go_back_to(there: Installation) -> None:
    digests = versions(there, 3)
    changed = there.modules / "temp" / "n"
    changed.chmod(0o644)
    changed.write_text("changed")
    there.store.install("temp", there.source("temp", files={"module/n": "2"}))
    assert there.store.rollback("temp").digest == digests[1]
    assert there.store.rollback("temp").digest == digests[2]


def test_versions_that_can_be_gone_back_to_outlive_the_collection(there: Installation) -> None:
    digests = versions(there, 6)
    there.store.collect()
    for digest in digests[2:5]:
        there.store.rollback("temp", digest)
        there.store.collect()
        assert there.store.installed_digest("temp") == digest
    with pytest.raises(UsageError, match="names no version of service temp"):
        there.store.rollback("temp", digests[0])


@pytest.mark.parametrize("to", ["", "zz", "../x", "current"])
def test_what_is_no_version_to_go_back_to_is_said_with_those_there_are(there: Installation, to: str) -> None:
    first, second = versions(there, 2)
    with pytest.raises(UsageError, match=first[:12]):
        there.store.rollback("temp", second if to == "current" else to)
    assert there.store.installed_digest("temp") == second


def test_without_an_earlier_version_there_is_none_to_go_back_to(there: Installation) -> None:
    versions(there, 1)
    with pytest.raises(ServiceError, match="no version but the current one"):
        there.store.rollback("temp")
    with pytest.raises(ServiceError, match="no service tmep is installed"):
        there.store.rollback("tmep")


def test_a_version_that_no_longer_goes_with_the_others_is_not_gone_back_to(there: Installation) -> None:
    there.store.install("temp", there.source("temp", {"jobName": "volume"}))
    second = there.store.install("temp", there.source("temp")).digest
    there.store.install("other", there.source("other", {"jobName": "volume"}))
    with pytest.raises(ManifestError, match='job "volume" is there already, in service other'):
        there.store.rollback("temp")
    assert there.store.installed_digest("temp") == second


def test_a_version_whose_files_were_changed_is_not_gone_back_to(there: Installation) -> None:
    first, second = versions(there, 2)
    path = there.store.module_folder("temp", first) / "worker.py"
    path.chmod(0o644)
    path.write_text("tampered")
    with pytest.raises(ServiceError, match="gone or were changed"):
        there.store.rollback("temp")
    assert there.store.installed_digest("temp") == second


def test_killed_at_any_moment_a_rollback_leaves_one_whole_version(there: Installation) -> None:
    first, second = versions(there, 2)
    for step in range(100):
        if there.store.installed_digest("temp") == first:
            there.store.rollback("temp", second)
        status = died_at(step, lambda: there.store.rollback("temp", first))
        assert there.store.load().faults == ()
        assert (there.registry / "temp").readlink() == (there.modules / "temp").readlink()
        if status == 0:
            break
    assert there.store.installed_digest("temp") == first


# -- disable, enable


def test_a_disabled_service_is_in_every_registry_and_never_asked(there: Installation) -> None:
    """Through updates and other processes; enabled again, it is as before."""
    there.store.install("other", there.source("other"))
    there.store.install("temp", there.source("temp", {"stage": "pre"}))
    before = there.store.load()
    assert there.store.disable("temp") is True
    assert there.store.disable("temp") is False
    there.store.install("temp", there.source("temp", {"stage": "pre"}, files={"module/n": ""}))
    job = there.store.load().job("temp")
    assert job is not None
    assert (job.settings.disabled, job.service_disabled) == (True, True)
    assert [each.settings.disabled for each in there.store.load().of_service("other")] == [False]
    [off] = [each for each in there.store.services() if each.name == "temp"]
    assert off.disabled_since is not None
    assert abs(off.disabled_since - time.time()) < 60
    assert there.store.enable("temp") is True
    assert there.store.enable("temp") is False
    there.store.rollback("temp")
    assert there.store.load() == before


def test_a_disabled_service_with_faults_keeps_no_study_back(there: Installation) -> None:
    """As one of stage pre whose settings are broken does while it is enabled."""
    digest = there.store.install("temp", there.source("temp", {"stage": "pre"})).digest
    path = there.store.registry_folder("temp", digest) / "settings.json"
    path.chmod(0o644)
    path.write_text('{"jobName": "temp", "stage": "pre"}')
    assert {fault.stage for fault in there.store.load().faults} == {Stage.PRE}
    there.store.disable("temp")
    assert {fault.stage for fault in there.store.load().faults} == {None}


def test_a_service_that_was_disabled_and_removed_is_enabled_when_it_is_installed_again(there: Installation) -> None:
    there.store.install("temp", there.source("temp"))
    there.store.disable("temp")
    there.store.remove("temp")
    there.store.install("temp", there.source("temp"))
    assert not there.store.load().jobs[0].settings.disabled
    with pytest.raises(ServiceError, match="no service tmep is installed"):
        there.store.disable("tmep")


# -- old versions


def test_the_current_version_the_last_three_and_pinned_ones_are_kept(there: Installation) -> None:
    digests = []
    for number in range(7):
        digests.append(there.store.install("temp", there.source("temp", files={"module/n": str(number)})).digest)
        for part, folder in (("registry", there.store.registry_folder), ("module", there.store.module_folder)):
            os.utime(folder("temp", digests[-1]), (number, number))
            assert part
    assert there.store.collect({("temp", digests[0]), ("other", digests[1])}) == [
        ("temp", digests[2]),
        ("temp", digests[1]),
    ]
    [service] = there.store.services()
    assert service.versions == (digests[6], digests[5], digests[4], digests[3], digests[0])


# -- several at once, and cut short


def test_installs_at_the_same_time_wait_for_each_other(there: Installation) -> None:
    names = [f"svc{number}" for number in range(6)]
    sources = {name: there.source(name) for name in names}
    children = []
    for name in names:
        child = os.fork()
        if child == 0:
            try:
                there.store.install(name, sources[name])
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(names)
    assert sorted(job.name for job in there.store.load().jobs) == names


def test_an_install_does_not_wait_for_ever(there: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    links = there.store._files
    monkeypatch.setattr(version_links, "LOCK_SECONDS", 0.1)
    with links.locked(), pytest.raises(ServiceError, match="another process is changing the services"):
        there.store.install("temp", there.source("temp"))


def test_old_versions_are_left_for_the_next_time_while_the_services_are_being_changed(there: Installation) -> None:
    links = there.store._files
    began = time.monotonic()
    with links.locked(), pytest.raises(ServiceError, match="another process is changing the services"):
        there.store.collect()
    assert time.monotonic() - began < 1


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: another user is needed")
def test_what_root_installs_belongs_to_the_owner_of_the_services(there: Installation) -> None:
    """After `sudo bash service.sh install` the platform, which is not root, changes and deletes as before."""
    for folder in (there.registry, there.modules):
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    there.store.install("temp", there.source("temp"))
    made = [path for folder in (there.registry, there.modules) for path in folder.rglob("*")]
    assert len(made) > 8
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(65534, 65534)}


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: another user is needed")
def test_a_lock_that_belongs_to_root_can_be_taken_all_the_same(there: Installation) -> None:
    there.store.install("temp", there.source("temp"))
    os.chown(there.registry / ".versions" / ".lock", 0, 0)
    (there.registry / ".versions" / ".lock").chmod(0o644)
    for parent in (there.base, *there.base.parents[:-2]):
        parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            os._exit(0 if there.store.collect() == [] else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_version_of_another_host_is_added_and_current_nowhere(there: Installation, tmp_path: Path) -> None:
    digest = there.store.install("one", there.source("one")).digest
    other = Store(tmp_path / "r", tmp_path / "m", Defaults(Level.STUDY, "default", ("default",)))
    for _ in range(2):
        other.add("one", digest, there.sources / "one")
    assert other.module_folder("one", digest).joinpath("worker.py").read_text() == "def worker(): pass\n"
    assert other.module_folder("one", digest).stat().st_mode & 0o777 == 0o755
    assert other.services() == []
    assert list((tmp_path / "m").iterdir()) == [tmp_path / "m" / ".versions"]


@pytest.mark.parametrize("change", ["module/worker.py", "module/more.py", "registry/callback.py", None])
def test_what_comes_under_a_digest_that_is_not_its_own_is_refused(
    there: Installation, tmp_path: Path, change: str | None
) -> None:
    digest, source = there.store.install("one", there.source("one")).digest, there.sources / "one"
    if change is None:
        shutil.rmtree(source / "registry")
    else:
        (source / change).write_text("evil = True\n")
    other = Store(tmp_path / "r", tmp_path / "m", Defaults(Level.STUDY, "default", ("default",)))
    with pytest.raises(ServiceError, match=r"has another content|came without registry"):
        other.add("one", digest, source)
    for name in ("../one", "one\n"):
        with pytest.raises(ServiceError):
            other.add(name, digest, there.sources / "one")
    assert not other.module_folder("one", digest).exists()


def test_killed_at_any_moment_an_install_leaves_one_whole_version(there: Installation) -> None:
    old = there.store.install("temp", there.source("temp", files={"module/v": "1"})).digest
    pristine = shutil.copytree(there.base, there.base.with_name("pristine"), symlinks=True)
    source = there.source("temp", files={"module/v": "2", "registry/v": "2"})
    seen = set()
    for step in range(1000):
        service_tree.remove(there.base)
        shutil.copytree(pristine, there.base, symlinks=True)
        status = died_at(step, lambda: there.store.install("temp", source, ORIGIN))
        registry = there.store.load()
        [job] = registry.jobs
        [service] = there.store.services()
        assert service.origin == (ORIGIN if job.digest != old else None)
        assert registry.faults == ()
        folders = {"registry": there.registry / "temp", "module": there.modules / "temp"}
        assert service_tree.digest(folders) == job.digest
        seen.add(job.digest)
        done = there.store.install("temp", source)
        assert there.store.load().jobs[0].digest == done.digest != old
        leftovers = {path.name for path in (there.registry / ".versions").iterdir()} - {"temp", ".lock"}
        assert not leftovers
        if status == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert step > 20
    assert seen == {old, done.digest}


def test_killed_at_any_moment_a_removal_leaves_the_service_or_none(there: Installation) -> None:
    there.store.install("temp", there.source("temp"))
    for step in range(100):
        there.store.install("temp", there.source("temp"))
        status = died_at(step, lambda: there.store.remove("temp"))
        there.store.load()
        assert os.path.lexists(there.registry / "temp") == os.path.lexists(there.modules / "temp")
        if status == 0:
            break
    assert not os.path.lexists(there.registry / "temp")


def test_a_full_disk_leaves_things_as_they_were_and_says_so(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.store.install("temp", there.source("temp"))
    before = there.listing()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "worker.py")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(ServiceError, match=r"service temp is not installed: worker\.py: No space left on device"):
        there.store.install("temp", there.source("temp", files={"module/more": ""}))
    assert there.listing() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: another user is needed")
def test_a_normal_user_can_install_change_and_remove(tmp_path: Path) -> None:
    """Modes do not bind root; folders nobody may write to must be no obstacle to their owner."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:-2]:  # up to /tmp
        parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            there = Installation(tmp_path)
            for version in range(3):
                files = {"module/deep/v": str(version), "registry/deep/v": str(version)}
                there.store.install("temp", there.source("temp", files=files))
            there.store.backup("temp", tmp_path / "backup")
            there.store.remove("temp")
            os._exit(0 if len(there.store.collect()) == 3 else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_reader_that_may_not_write_reads_all_the_same(there: Installation) -> None:
    """Containers mount REGISTRY read-only."""
    there.store.install("temp", there.source("temp"))
    (there.modules / "temp").unlink()
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(30, "Read-only file system")

        patch.setattr(os, "symlink", refuse)
        assert [job.name for job in there.store.load().jobs] == ["temp"]
    there.store.load()
    wait_until((there.modules / "temp").exists, seconds=1)


def test_callbacks_are_compiled_once_at_install(there: Installation) -> None:
    there.store.install("temp", there.source("temp"))
    assert list((there.registry / "temp" / "__pycache__").glob("callback.*.pyc"))
    assert store.KEPT == 3

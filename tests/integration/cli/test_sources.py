"""Services from git repositories and archives: the command line, the real git, and hosts on the loopback interface."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dcm_processor import certificate, service_tree
from dcm_processor.archives.archive import Extent
from dcm_processor.archives.new_folder import NewFolder
from dcm_processor.cli import main
from dcm_processor.sources import git
from tests.git_host import WorkTree, serving
from tests.git_host import git as run_git
from tests.killing import died_at
from tests.waiting import wait_until


class Installation:
    """An empty BASEDIR, and a repository beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        self.repository = WorkTree(folder / "host")

    def __call__(self, *arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["service", *map(str, arguments)], prog_name="dcm-processor")

    def done(self, *arguments: str | Path) -> str:
        """What a command that succeeds says."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, *arguments: str | Path, status: int = 1) -> str:
        """What a command that fails says; nothing of what it fetched is left."""
        result = self(*arguments)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        assert self.left_over() == []
        return result.stderr

    def left_over(self) -> list[Path]:
        """What fetching left."""
        return list((self.base / "run").glob("source-*"))

    def listed(self) -> dict[str, dict[str, Any]]:
        """The installed services, by name."""
        return {each["name"]: each for each in json.loads(self.done("list", "--json"))}

    def service(self, name: str, folder: str | None = None, **job: Any) -> Path:
        """Have a service in the work tree."""
        return make_service(self.repository.folder / (folder or name), name, **job)

    def content(self, name: str, path: str = "n") -> str:
        """A file of the current version's module/."""
        return (self.base / "modules" / name / path).read_text()


def make_service(place: Path, name: str, **job: Any) -> Path:
    """A service's source; `n` in its module tells its contents apart."""
    settings = {"jobName": name, "worker": f"{name}.worker", "callback": f"{name}.callback", **job}
    for path, text in {
        "registry/settings.json": json.dumps(settings),
        "registry/callback.py": "def callback(): return True\n",
        "module/worker.py": "def worker(): pass\n",
        "module/n": "1",
    }.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setenv("BASEDIR", str(tmp_path / "base"))
    monkeypatch.setenv("DCM_PROCESSOR_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    for key in ("REGISTRY", "MODULES", "DATABASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "EXTRA_CA_FILE"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.lower(), raising=False)
    (tmp_path / "home").mkdir()
    yield Installation(tmp_path)
    service_tree.remove(tmp_path)  # what nobody may write to, pytest could not delete


# -- git


def test_a_tag_is_installed_and_its_commit_kept(there: Installation) -> None:
    there.service("lung")
    commit = there.repository.commit("v1")
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    there.repository.commit()
    said = there.done("install", "lung", "-p", there.repository.url("v1"))
    assert said.startswith("service lung: installed, version ")
    assert f"commit {commit[:12]}" in said
    assert there.content("lung") == "1"
    lung = there.listed()["lung"]
    assert (lung["origin"]["commit"], lung["origin"]["ref"]) == (commit, "v1")
    assert lung["origin"]["source"] == there.repository.url("v1")
    assert commit[:12] in there.done("list")
    assert there.left_over() == []


def test_an_update_goes_to_the_same_source_again_and_says_what_changed(there: Installation) -> None:
    """And keeps a disabled service disabled."""
    there.service("lung")
    old = there.repository.commit()
    there.done("install", "lung", "-p", there.repository.url("main"))
    before = there.listed()["lung"]["version"]
    assert "already current" in there.done("update", "lung")
    there.done("disable", "lung")
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    new = there.repository.commit()
    said = there.done("update", "lung")
    lung = there.listed()["lung"]
    assert said == (f"service lung: version {before[:12]} → {lung['version'][:12]}, commit {old[:12]} → {new[:12]}\n")
    assert (there.content("lung"), lung["enabled"], lung["origin"]["commit"]) == ("2", False, new)
    there.done("rollback", "lung")
    assert there.content("lung") == "1"
    assert there.listed()["lung"]["origin"]["commit"] == old


def test_a_commit_is_found_however_it_is_named(there: Installation) -> None:
    there.service("lung")
    wanted = there.repository.commit()
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    there.repository.commit("v2")
    for ref in (wanted, wanted[:9]):
        assert json.loads(there.done("install", "lung", "-p", there.repository.url(ref), "--json"))["commit"] == wanted
        assert there.content("lung") == "1"
    there.done("install", "lung", "-p", there.repository.url())  # its default branch
    assert there.content("lung") == "2"


def test_all_services_of_a_repository_are_installed_or_the_one_that_is_named(there: Installation) -> None:
    there.service("lung", "services/lung-folder", dependsOn="brain")
    there.service("brain", "services/brain")
    there.repository.commit("v1")
    result = there("install", "-p", there.repository.url("v1"))
    assert (result.exit_code, result.stderr) == (0, "")  # no warning that brain is not installed
    assert set(there.listed()) == {"lung", "brain"}
    for name in ("lung", "brain"):
        there.done("remove", name)
    there.done("install", "lung", "-p", there.repository.url("v1"))
    assert set(there.listed()) == {"lung"}
    there.done("install", "brain", "-p", there.repository.url("v1", "services/brain"))
    assert there.listed()["brain"]["origin"]["source"].endswith("#subdirectory=services/brain")
    assert 'no service lang; did you mean "lung"?' in there.refused(
        "install", "lang", "-p", there.repository.url("v1"), status=2
    )
    assert "has no folder services/no" in there.refused("install", "x", "-p", there.repository.url("v1", "services/no"))


def test_of_several_services_none_is_installed_where_one_is_refused(there: Installation) -> None:
    """Here one names another service's function."""
    there.service("lung")
    there.service("brain", callback="lung.callback")
    there.repository.commit()
    said = there.refused("install", "-p", there.repository.url())
    assert "service brain: registry/settings.json: callback" in said
    assert there.listed() == {}


def test_an_update_of_all_leaves_one_whose_source_is_gone_and_updates_the_others(there: Installation) -> None:
    there.service("lung")
    there.repository.commit()
    there.done("install", "lung", "-p", there.repository.url())
    gone = make_service(there.folder / "gone", "gone")
    there.done("install", "gone", "-p", gone)
    version = there.listed()["gone"]["version"]
    shutil.rmtree(gone)
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    there.repository.commit()
    result = there("update")
    assert result.exit_code == 1
    assert "gone: not updated: " in result.stderr
    assert "is not there" in result.stderr
    assert there.content("lung") == "2"
    assert there.listed()["gone"]["version"] == version


def test_an_update_of_all_says_which_service_its_source_no_longer_holds(there: Installation) -> None:
    for name in ("brain", "lung"):
        there.service(name)
    there.repository.commit()
    there.done("install", "-p", there.repository.url())
    shutil.rmtree(there.repository.folder / "brain")
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    there.repository.commit()
    result = there("update")
    assert result.exit_code == 1
    assert result.stderr == f"brain: not updated: {there.repository.url()} no longer holds it\n"
    assert there.content("lung") == "2"
    assert "no longer" not in there("update", "-p", there.repository.url()).output


def test_an_update_of_all_goes_past_one_whose_source_is_none(there: Installation) -> None:
    for name in ("brain", "lung"):
        there.done("install", name, "-p", make_service(there.folder / name, name))
    (note,) = (there.base / "registry" / ".versions" / "brain").glob("*.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "source": "git+ftp://host/brain.git"}))
    (there.folder / "lung" / "module" / "n").write_text("2")
    result = there("update")
    assert (result.exit_code, there.content("lung")) == (1, "2")
    assert "brain: not updated: git+ftp is no source" in result.stderr
    assert there("update", "-p", "git+ftp://host/brain.git").exit_code == 2


def test_an_update_of_what_is_not_installed_is_refused(there: Installation) -> None:
    there.service("lung")
    there.repository.commit()
    assert "no service lung is installed" in there.refused("update", "lung", "-p", there.repository.url())


# -- git: bad input


def test_a_repository_or_a_branch_that_is_gone_is_said_and_changes_nothing(there: Installation) -> None:
    there.service("lung")
    there.repository.commit()
    there.done("install", "lung", "-p", there.repository.url())
    before = there.listed()
    assert "no such branch, tag or commit" in there.refused("install", "lung", "-p", there.repository.url("v9"))
    assert "no such branch, tag or commit" in there.refused("install", "lung", "-p", there.repository.url("0abcdef"))
    there.repository.bare.rename(there.folder / "elsewhere")
    assert "there is no repository (any more)" in there.refused("update", "lung")
    assert there.listed() == before


def test_a_host_that_asks_for_a_password_gets_none_and_nobody_is_asked(there: Installation) -> None:
    with serving(there.repository.bare.parent, private=True) as host:
        began = time.monotonic()
        said = there.refused("install", "lung", "-p", host.url("services.git"))
        assert "the host asks for a user and password" in said
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("address", ["git+https://me:S3cret@host/r.git", "git+https://S3cret@host/r.git"])
def test_credentials_in_an_address_are_kept_nowhere(there: Installation, address: str) -> None:
    said = there.refused("install", "lung", "-p", address, status=2)
    assert "credential helper" in said
    assert "S3cret" not in said
    assert not there.base.exists() or not any("S3cret" in path.read_text() for path in there.base.rglob("*.json"))


def test_files_that_a_service_has_in_a_submodule_or_in_lfs_are_refused_by_name(there: Installation) -> None:
    """Elsewhere in the repository they are nobody's business."""
    other = WorkTree(there.folder / "other")
    (other.folder / "x").write_text("")
    other.commit()
    there.service("lung")
    run_git(there.repository.folder, "submodule", "--quiet", "add", other.bare, "third_party")
    (there.repository.folder / "large.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    there.repository.commit()
    there.done("install", "lung", "-p", there.repository.url())
    shutil.copy(there.repository.folder / "large.bin", there.repository.folder / "lung" / "module" / "weights.bin")
    there.repository.commit()
    said = there.refused("update", "lung")
    assert "service lung needs lung/module/weights.bin, and it is kept in git LFS" in said
    (there.repository.folder / "lung" / "module" / "weights.bin").unlink()
    run_git(there.repository.folder, "submodule", "--quiet", "add", other.bare, "lung/module/sub")
    there.repository.commit()
    assert "needs lung/module/sub, and it is a submodule" in there.refused("update", "lung")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "../registry/settings.json"])
def test_symlinks_that_leave_a_service_are_refused(there: Installation, target: str) -> None:
    folder = there.service("lung")
    (there.repository.folder / "docs").symlink_to("/etc")  # nobody's business
    there.repository.commit()
    there.done("install", "lung", "-p", there.repository.url())
    (folder / "module" / "link").symlink_to(target)
    there.repository.commit()
    assert "symlink" in there.refused("update", "lung")
    assert "is no folder there" in there.refused("install", "lung", "-p", there.repository.url("", "docs"))


@pytest.mark.parametrize("path", ["module/requirements.txt", "registry/settings.json", "registry"])
def test_nothing_outside_is_read_through_a_symlink_of_a_service(there: Installation, path: str) -> None:
    """Not even by whoever locks its requirements before it is copied."""
    folder = there.service("lung")
    secret = there.folder / "secret"
    secret.write_text("S3cret==1\n")
    if (folder / path).exists():
        (folder / path).rename(folder / "elsewhere")
    (folder / path).symlink_to(secret if "." in path else there.folder)
    there.repository.commit()
    for source in (there.repository.url("", "lung"), str(folder)):
        said = there.refused("install", "lung", "-p", source)
        assert "symlink" in said or "registry/" in said
        assert "S3cret" not in said


@pytest.mark.parametrize("path", ["module/requirements.txt", "registry/settings.json"])
def test_a_pipe_in_the_place_of_a_file_that_is_read_early_is_refused_without_waiting(
    there: Installation, path: str
) -> None:
    folder = make_service(there.folder / "made", "lung")
    (folder / path).unlink(missing_ok=True)
    os.mkfifo(folder / path)
    install = start("install", "lung", "-p", folder)
    try:
        _, said = install.communicate(timeout=60)
    finally:
        install.kill()
    assert install.returncode == 1
    assert "is neither a file, a folder nor a symlink" in said


def test_nothing_of_a_repository_and_no_hook_or_filter_is_run(there: Installation) -> None:
    """Not even those that the user who installs has for their own work."""
    folder = there.service("lung")
    (there.repository.folder / ".gitattributes").write_text("* filter=evil text eol=crlf export-ignore\n")
    there.repository.commit()
    ran = there.folder / "ran"
    hooks = there.folder / "home" / "hooks"
    hooks.mkdir()
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (hooks / hook).chmod(0o755)
    (there.folder / "home" / ".gitconfig").write_text(
        f'[core]\nhooksPath = {hooks}\n[filter "evil"]\nsmudge = touch {ran}\nrequired = true\n'
        f"[init]\ntemplateDir = {hooks.parent}\n"
    )
    there.done("install", "lung", "-p", there.repository.url())
    assert not ran.exists()
    assert there.content("lung", "worker.py") == (folder / "module" / "worker.py").read_text()


@pytest.mark.parametrize(
    ("name", "believed"),
    [("..", False), (".git", False), ("a/../../b", False), ("..", True), (".", True), ("a/../../b", True)],
)
def test_a_repository_whose_names_lead_out_is_refused(
    there: Installation, monkeypatch: pytest.MonkeyPatch, name: str, *, believed: bool
) -> None:
    """By git, and by us where git lets it pass."""
    if believed:
        monkeypatch.setattr(git, "_SETTINGS", ())
    there.service("lung")
    there.repository.commit()
    bare = there.repository.bare
    blob = run_git(bare, "rev-parse", "main:lung/module/n")
    service = run_git(bare, "rev-parse", "main:lung")
    tree = b"40000 lung\0" + bytes.fromhex(service) + f"100644 {name}\0".encode() + bytes.fromhex(blob)
    (there.folder / "tree").write_bytes(tree)
    made = run_git(bare, "hash-object", "--literally", "-w", "-t", "tree", there.folder / "tree")
    run_git(bare, "update-ref", "refs/heads/main", run_git(bare, "commit-tree", "-m", "evil", made))
    there.refused("install", "lung", "-p", there.repository.url())
    assert there.listed() == {}
    assert not [path for path in there.folder.rglob("b") if path.is_file()]


def test_a_repository_that_is_too_large_is_refused_while_it_comes(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = there.service("lung")
    (folder / "module" / "data").write_bytes(os.urandom(400_000))
    there.repository.commit()
    with monkeypatch.context() as patch:
        patch.setattr(git, "SIZE", 100_000)
        assert "it holds more than may be fetched" in there.refused("install", "lung", "-p", there.repository.url())
    for most in (Extent(3, 1024**3), Extent(100, 300_000)):  # as files, whatever they shrink to
        monkeypatch.setattr(git, "VERSION", most)
        assert "it holds more than may be fetched" in there.refused("install", "lung", "-p", there.repository.url())


def test_a_host_that_says_nothing_is_given_up(there: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"git+http://127.0.0.1:{silent.getsockname()[1]}/r.git"
        assert "it took longer than 1 s" in there.refused("install", "lung", "-p", address)


def test_where_git_is_missing_it_is_said(there: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(there.folder))
    assert "the program git is missing; install it" in there.refused("install", "lung", "-p", there.repository.url())


def test_a_full_disk_is_said_and_leaves_things_as_they_were(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.service("lung")
    there.repository.commit()
    there.done("install", "lung", "-p", there.repository.url())
    before = there.listed()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "worker.py")

    monkeypatch.setattr(NewFolder, "file", full)
    assert "worker.py: No space left on device" in there.refused("update", "lung")
    assert there.listed() == before


# -- git: the network


def test_a_repository_comes_over_http_with_a_warning(there: Installation) -> None:
    there.service("lung")
    commit = there.repository.commit("v1")
    with serving(there.repository.bare.parent) as host:
        result = there("install", "lung", "-p", host.url("services.git", "v1"))
        assert result.exit_code == 0, result.output
        assert "is not encrypted" in result.stderr
        assert there.listed()["lung"]["origin"]["commit"] == commit
        assert "there is no repository" in there.refused("install", "lung", "-p", host.url("gone.git"))


def test_a_private_authority_is_trusted_where_extra_ca_file_names_it(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.service("lung")
    there.repository.commit()
    certificate.make(there.folder / "tls", ["localhost"])
    with serving(there.repository.bare.parent, tls=there.folder / "tls") as host:
        said = there.refused("install", "lung", "-p", host.url("services.git"))
        assert "certificate is not trusted; name the authority that signed it by EXTRA_CA_FILE" in said
        monkeypatch.setenv("EXTRA_CA_FILE", str(there.folder / "tls" / "server.crt"))
        assert "installed" in there.done("install", "lung", "-p", host.url("services.git"))


def test_the_proxy_of_the_settings_is_asked_but_for_no_proxy(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.service("lung")
    there.repository.commit()
    with serving(there.repository.bare.parent) as proxy:
        (there.folder / ".env.local").write_text(f"HTTP_PROXY=http://127.0.0.1:{proxy.port}\n")
        there.done("install", "lung", "-p", "git+http://forge.example/services.git")
        assert all(path.startswith("http://forge.example/") for path in proxy.asked)
        monkeypatch.setenv("NO_PROXY", "forge.example")
        assert "name is not known here" in there.refused("update", "lung")


def test_a_credential_helper_of_the_user_who_installs_is_asked(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here git's cache, whose socket lies where XDG_CACHE_HOME says."""
    cache = there.folder / "c"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (there.folder / "home" / ".gitconfig").write_text("[credential]\n\thelper = cache\n")
    there.service("lung")
    there.repository.commit()
    with serving(there.repository.bare.parent, private=True) as host:
        known = f"protocol=http\nhost=localhost:{host.port}\nusername=reader\npassword=secret\n"
        try:
            subprocess.run(["git", "credential", "approve"], input=known, text=True, timeout=60, check=True)
            there.done("install", "lung", "-p", host.url("services.git"))
        finally:
            subprocess.run(["git", "credential-cache", "exit"], timeout=60, check=True)
    assert not any(b"secret" in path.read_bytes() for path in there.base.rglob("*") if path.is_file())


@pytest.mark.parametrize("by", ["environment", "configuration"])
def test_ssh_is_called_so_that_it_asks_nobody(there: Installation, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """By a stand-in for ssh that runs the host's side here, named as git takes it."""
    there.service("lung")
    there.repository.commit("v1")
    ssh = there.folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{there.folder}/called\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    if by == "environment":
        monkeypatch.setenv("GIT_SSH_COMMAND", f"{ssh} -i key")
    else:
        monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
        (there.folder / "home" / ".gitconfig").write_text(f"[core]\n\tsshCommand = {ssh} -i key\n")
    there.done("install", "lung", "-p", f"git+ssh://git@host.example:2222{there.repository.bare}@v1")
    called = (there.folder / "called").read_text().splitlines()
    assert called[:4] == ["-i", "key", "-o", "BatchMode=yes"]
    assert called[-2:] == ["git@host.example", f"git-upload-pack '{there.repository.bare}'"]


# -- archives


@pytest.mark.parametrize("form", ["zip", "gztar", "tar"])
def test_an_archive_is_installed_and_updated(there: Installation, form: str) -> None:
    """As a forge makes them, with one folder at the top."""
    folder = make_service(there.folder / "made" / "lung-1.0", "lung")
    archive = shutil.make_archive(str(there.folder / "lung"), form, folder.parent)
    there.done("install", "lung", "-p", archive)
    assert there.listed()["lung"]["origin"]["source"] == archive
    (folder / "module" / "n").write_text("2")
    shutil.make_archive(str(there.folder / "lung"), form, folder.parent)
    assert " → " in there.done("update", "lung")
    assert there.content("lung") == "2"
    assert there.left_over() == []


def test_faults_of_an_archive_name_it_and_not_where_it_was_unpacked(there: Installation) -> None:
    folder = make_service(there.folder / "made" / "lung", "lung")
    (folder / "module" / "away").symlink_to("/etc/passwd")
    archive = shutil.make_archive(str(there.folder / "lung"), "gztar", folder.parent)
    assert f"{archive}/lung/module/away is a symlink that leads out of" in there.refused("install", "-p", archive)
    (folder / "module" / "away").unlink()
    (folder / "module").rename(folder / "modules")
    shutil.make_archive(str(there.folder / "lung"), "gztar", folder.parent)
    said = there.refused("install", "lung", "-p", archive)
    assert f"{archive}/lung has no module/; rename its modules/ to module/" in said


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root reads all, unless by setpriv")
def test_a_folder_that_cannot_be_read_is_said(there: Installation) -> None:
    """Also where it is only looked through for services."""
    make_service(there.folder / "mine" / "lung", "lung")
    closed = there.folder / "mine" / "closed"
    closed.mkdir(mode=0o000)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    for source, unreadable in ((closed.parent, closed), (closed, closed / "HEAD")):
        done = subprocess.run(
            [*without, sys.executable, "-m", "dcm_processor.cli", "service", "install", "-p", source],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"dcm-processor: {source} cannot be installed: {unreadable}: Permission denied\n"
    closed.chmod(0o700)


def test_what_is_neither_folder_nor_archive_nor_repository_is_said(there: Installation) -> None:
    (there.folder / "notes.txt").write_text("")
    (there.folder / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    assert "is neither a folder nor an archive" in there.refused("install", "x", "-p", there.folder / "notes.txt")
    assert "the archive is damaged" in there.refused("install", "x", "-p", there.folder / "broken.zip")
    assert "is not there" in there.refused("install", "x", "-p", there.folder / "no")
    there.service("lung")
    there.repository.commit()
    assert "name it as git+file://" in there.refused("install", "x", "-p", there.repository.bare)


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: another user is needed")
def test_what_root_unpacks_takes_no_folder_from_the_user_of_the_platform(there: Installation) -> None:
    """After `sudo bash service.sh install` the platform writes to BASEDIR/run as before."""
    there.base.mkdir()
    os.chown(there.base, 65534, 65534)
    folder = make_service(there.folder / "made" / "lung", "lung")
    there.done("install", "lung", "-p", shutil.make_archive(str(there.folder / "lung"), "zip", folder))
    assert (there.base / "run").stat().st_uid == 65534


# -- several at once, and cut short


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    """A command as a process of its own."""
    call = [Path(sys.executable).with_name("dcm-processor"), "service", *arguments]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_installs_of_one_name_at_once_leave_one_of_them_whole(there: Installation) -> None:
    there.service("lung")
    there.repository.commit("v1")
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    there.repository.commit("v2")
    both = [start("install", "lung", "-p", there.repository.url(tag)) for tag in ("v1", "v2")]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    lung = there.listed()["lung"]
    assert {"v1": "1", "v2": "2"}[lung["origin"]["ref"]] == there.content("lung")
    assert (len(lung["versions"]), lung["faults"], there.left_over()) == (2, [], [])


def test_a_fetch_that_goes_on_is_not_cleared_away_by_another_install(there: Installation) -> None:
    there.service("lung")
    there.repository.commit()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = start("install", "x", "-p", f"git+http://127.0.0.1:{silent.getsockname()[1]}/r.git")
        try:
            wait_until(lambda: there.left_over() != [])
            [place] = there.left_over()
            wait_until((place / "git" / "HEAD").exists)
            there.done("install", "lung", "-p", there.repository.url())
            assert (place / "git" / "HEAD").exists()
        finally:
            slow.send_signal(signal.SIGKILL)
            slow.communicate()
    wait_until(lambda: not _runs_in(place))  # its git ends with it
    there.done("update", "lung")
    assert there.left_over() == []


def _runs_in(place: Path) -> bool:
    links = (path / "cwd" for path in Path("/proc").glob("[0-9]*"))
    return any(_target(link).startswith(str(place)) for link in links)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def test_killed_at_any_moment_an_update_leaves_the_old_version_or_the_new_one(there: Installation) -> None:
    """And the next one clears away what is left."""
    there.service("lung")
    old = there.repository.commit("v1")
    (there.repository.folder / "lung" / "module" / "n").write_text("2")
    new = there.repository.commit("v2")
    seen = set()

    def update() -> None:
        there("update", "lung", "-p", there.repository.url("v2"))

    for step in range(0, 400, 3):
        there.done("install", "lung", "-p", there.repository.url("v1"))
        assert there.left_over() == []
        status = died_at(step, update)
        lung = there.listed()["lung"]
        assert lung["faults"] == []
        assert {old: "1", new: "2"}[lung["origin"]["commit"]] == there.content("lung")
        seen.add(there.content("lung"))
        if status == 0:
            break
    assert step > 30
    assert seen == {"1", "2"}

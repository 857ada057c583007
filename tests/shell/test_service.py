"""service.sh and init.sh: thin over the command line, and of use while nothing runs."""

import os
import subprocess
from pathlib import Path

from dcm_processor.settings import CHECKOUT
from tests.shell.checkout import Checkout


def test_service_hands_on_every_word_as_it_was_given(ready: Checkout) -> None:
    done = ready.run("service.sh", "install", "my service", "-p", "a folder/*")
    assert done.stdout.splitlines() == ["service", "install", "my service", "-p", "a folder/*"]


def test_init_installs_the_base_services_and_then_what_is_one_s_own(ready: Checkout) -> None:
    (ready.folder / "init.local.sh").write_text("echo own; exit 3\n")
    done = ready.run("init.sh")
    installs = [["service", "install", name, "-p", f"{ready.folder}/services/{name}"] for name in ("temp", "dcm2nii")]
    assert done.stdout.splitlines() == [*installs[0], *installs[1], "own"]
    assert done.returncode == 3


def test_init_takes_no_argument_and_says_so(ready: Checkout) -> None:
    done = ready.run("init.sh", "foo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "init.sh: it takes no argument, and 'foo' is one; `bash init.sh --help` shows what there is\n"
    assert "installs the base services" in ready.run("init.sh", "--help").stdout


def test_with_nothing_running_a_service_is_installed_and_listed(tmp_path: Path) -> None:
    """From another folder, with a relative path, as SEED.md has it."""

    def service(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", CHECKOUT / "service.sh", *arguments],
            cwd=CHECKOUT / "services",
            env={**os.environ, "BASEDIR": str(tmp_path / "base dir")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = service("install", "temp", "-p", "temp")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "base dir" / "registry" / "temp" / "settings.json").is_file()
    assert "temp" in service("list").stdout
    refused = service("install", "nothing", "-p", "no such folder")
    assert refused.returncode in (1, 2)
    assert "Traceback" not in refused.stderr

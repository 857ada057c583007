"""run.sh: what it takes, what it refuses, what it hands on."""

from pathlib import Path

import pytest

from tests.shell.checkout import Checkout

FOREIGN = {"ORTHANC_REST_URL": "http://pacs.example.org:8042"}  # so that no Orthanc is wanted here


def test_scale_keeps_its_second_word(ready: Checkout) -> None:
    done = ready.run("run.sh", "--local", "--scale", "worker=4", **FOREIGN)
    assert (done.returncode, done.stdout.split()) == (0, ["stack", "up", "--scale", "worker=4"])


def test_scale_may_be_one_word(ready: Checkout) -> None:
    done = ready.run("run.sh", "--scale=worker=4", "--local", **FOREIGN)
    assert done.stdout.split() == ["stack", "up", "--scale", "worker=4"]


def test_demo_and_force_are_handed_on(ready: Checkout) -> None:
    done = ready.run("run.sh", "--local", "--demo", "--force", **FOREIGN)
    assert done.stdout.split() == ["stack", "up", "--demo", "--force"]


@pytest.mark.parametrize("arguments", [["--local", "--down"], ["--down"]])
def test_down_goes_by_what_runs(ready: Checkout, arguments: list[str]) -> None:
    assert ready.run("run.sh", *arguments).stdout.split() == ["stack", "down"]


def test_down_before_anything_was_ever_started_is_done_and_installs_nothing(bare: Checkout) -> None:
    done = bare.run("run.sh", "--local", "--down")
    assert done.returncode == 0
    assert "nothing runs" in done.stderr
    assert not (bare.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--local", "--lokal"], "there is no option '--lokal'"),
        (["--local", "extra"], "there is no option 'extra'"),
        (["--local", "-f", "docker-compose.gpu.yml"], "there is no option '-f'"),
        (["--local", "--workers-only"], "--workers-only goes with containers"),
        (["--workers-only", "--demo"], "--workers-only has no --demo"),
        (["--profile"], "--profile needs a second word"),
        (["--local", "--scale"], "worker=N"),
        (["--local", "--scale", "worker"], "only workers can be scaled"),
        (["--local", "--scale", "orthanc=2"], "there is no option '--scale orthanc=2'"),
        (["--local", "--scale", "worker=-1"], "only workers can be scaled"),
        (["--local", "--down", "--demo"], "--down takes neither"),
        (["--local", "--force"], "--force goes with --demo"),
    ],
)
def test_wrong_usage_is_status_2_and_one_line_and_touches_nothing(
    bare: Checkout, arguments: list[str], said: str
) -> None:
    done = bare.run("run.sh", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "--help" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (bare.folder / ".venv").exists()


def test_help_says_what_fewer_workers_mean_for_their_jobs(bare: Checkout) -> None:
    said = " ".join(bare.run("run.sh", "--help").stdout.split())
    assert "gives its job WORKER_STOP_GRACE seconds, then hands the attempt back" in said


def test_help_shows_every_option(bare: Checkout) -> None:
    done = bare.run("run.sh", "--help")
    assert done.returncode == 0
    for option in ("--local", "--scale worker=N", "--demo", "--force", "--down"):
        assert option in done.stdout


def test_it_works_from_any_folder(ready: Checkout, tmp_path: Path) -> None:
    done = ready.run("run.sh", "--local", cwd=tmp_path, **FOREIGN)
    assert (done.returncode, done.stdout.split()) == (0, ["stack", "up"])


def test_all_that_is_missing_is_named_in_one_line(bare: Checkout) -> None:
    done = bare.bash(
        "source sh/messages.sh; source sh/settings.sh; source sh/packages.sh;"
        "may_install() { return 1; }; missing=(orthanc python3-venv); install_missing"
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "apt-get install --no-install-recommends orthanc python3-venv" in line
    assert "ORTHANC_REST_URL" in line


def test_an_orthanc_of_somebody_else_needs_none_here(bare: Checkout) -> None:
    wanted = "source sh/settings.sh; source sh/packages.sh; orthanc_wanted"
    assert bare.bash(wanted).returncode == 0
    assert bare.bash(wanted, **FOREIGN).returncode == 1
    (bare.folder / ".env.local").write_text('ORTHANC_REST_URL="https://orthanc.example.org"\n')
    assert bare.bash(wanted).returncode == 1

"""The Python environment of the scripts: when it is made again, and with what."""

from pathlib import Path

import pytest

from tests.shell.checkout import Checkout

FOREIGN = {"ORTHANC_REST_URL": "http://pacs.example.org:8042"}  # so that no Orthanc is wanted here


def test_a_changed_lock_makes_the_environment_again(ready: Checkout) -> None:
    assert ready.bash("source sh/python.sh; environment_is_current server").returncode == 0
    with (ready.folder / "requirements" / "server.txt").open("a") as lock:
        lock.write("# changed\n")
    assert ready.bash("source sh/python.sh; environment_is_current server").returncode == 1


def test_a_moved_checkout_makes_the_environment_again(ready: Checkout) -> None:
    """Programs of an environment hold its absolute path."""
    ready.folder = ready.folder.rename(ready.folder.with_name("elsewhere"))
    assert ready.bash("source sh/python.sh; environment_is_current server").returncode == 1


def test_packages_are_not_exchanged_under_a_running_stack(ready: Checkout) -> None:
    with (ready.folder / "requirements" / "server.txt").open("a") as lock:
        lock.write("# changed\n")
    with ready.running_stack():
        for script, *arguments in (["run.sh", "--local"], ["service.sh", "list"]):
            done = ready.run(script, *arguments, **FOREIGN)
            assert done.returncode == 1
            assert "needs other packages than the stack that runs" in done.stderr
        assert ready.run("run.sh", "--down").stdout.split() == ["stack", "down"]


def test_a_running_stack_is_no_obstacle_while_nothing_changed(ready: Checkout) -> None:
    with ready.running_stack():
        assert ready.run("run.sh", "--local", **FOREIGN).returncode == 0


def test_proxies_mirrors_and_authorities_of_env_reach_pip_and_uv(bare: Checkout, tmp_path: Path) -> None:
    (tmp_path / "system.pem").write_text("of the system\n")
    (bare.folder / "ours.pem").write_text("of the hospital\n")
    (bare.folder / ".env.local").write_text(
        "EXTRA_CA_FILE=ours.pem\nPIP_INDEX_URL=https://mirror.example.org/simple\nHTTPS_PROXY=http://proxy.example.org\n"
    )
    shown = 'cat "$SSL_CERT_FILE" "$PIP_CERT" "$REQUESTS_CA_BUNDLE"'
    shown += '; echo "$UV_DEFAULT_INDEX $PIP_INDEX_URL $HTTPS_PROXY"'
    done = bare.bash(
        f"source sh/messages.sh; source sh/settings.sh; source sh/python.sh; (reach_the_net; {shown})",
        SSL_CERT_FILE=str(tmp_path / "system.pem"),
        REQUESTS_CA_BUNDLE=str(tmp_path / "system.pem"),  # which pip would take before PIP_CERT
        TMPDIR=str(tmp_path),
    )
    assert done.stdout.splitlines() == [
        *["of the system", "of the hospital"] * 3,
        "https://mirror.example.org/simple https://mirror.example.org/simple http://proxy.example.org",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["system.pem"]


def test_an_authority_that_cannot_be_read_is_named(bare: Checkout) -> None:
    done = bare.bash(
        "source sh/messages.sh; source sh/settings.sh; source sh/python.sh; reach_the_net", EXTRA_CA_FILE="/no/such.pem"
    )
    assert done.returncode == 1
    assert "EXTRA_CA_FILE=/no/such.pem cannot be read" in done.stderr


SOURCED = "source sh/messages.sh; source sh/settings.sh; source sh/python.sh; reach_the_net; "
OFFLINE = """#!/bin/bash
[[ "$UV_FIND_LINKS $PIP_FIND_LINKS" == "$PWD/wheels $PWD/wheels" && "${!#}" == --no-index ]] && echo 'from the folder'
"""
UNTRUSTED = """#!/bin/bash
echo "$1" >&2
exit 2
"""


def program(checkout: Checkout, text: str) -> str:
    """A stand-in for pip and uv, as the word that calls it."""
    path = checkout.folder / "installs"
    path.write_text(text)
    path.chmod(0o755)
    return "./installs"


def test_a_folder_of_wheels_that_holds_all_needs_no_index(bare: Checkout) -> None:
    """WHEEL_DIR is relative to the checkout."""
    done = bare.bash(f"{SOURCED} install_from_index {program(bare, OFFLINE)} install", WHEEL_DIR="./wheels")
    assert (done.returncode, done.stdout, done.stderr) == (0, "from the folder\n", "")


def test_what_the_folder_of_wheels_lacks_comes_from_the_index(bare: Checkout) -> None:
    installs = program(bare, '#!/bin/bash\n[[ "${!#}" != --no-index ]]\n')
    done = bare.bash(f"{SOURCED} install_from_index {installs} install", WHEEL_DIR="./wheels")
    assert done.returncode == 0
    assert "WHEEL_DIR does not hold all that is needed" in done.stderr


def test_with_a_mirror_beside_the_folder_of_wheels_both_are_asked_at_once(bare: Checkout) -> None:
    installs = program(bare, '#!/bin/bash\n[[ "${!#}" != --no-index ]]\n')
    env = {"WHEEL_DIR": "./wheels", "PIP_INDEX_URL": "https://mirror.example.org/simple"}
    done = bare.bash(f"{SOURCED} install_from_index {installs} install", **env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "said", ["[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "invalid peer certificate: UnknownIssuer"]
)
def test_where_the_way_to_pypi_is_not_trusted_it_says_what_to_do(bare: Checkout, tmp_path: Path, said: str) -> None:
    done = bare.bash(f"{SOURCED} install_from_index {program(bare, UNTRUSTED)} '{said}'", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == said
    assert "name it by EXTRA_CA_FILE in .env.local" in done.stderr.splitlines()[1]
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_another_failure_is_left_to_speak_for_itself(bare: Checkout) -> None:
    done = bare.bash(f"{SOURCED} install_from_index {program(bare, UNTRUSTED)} 'no space left'")
    assert done.returncode == 1
    assert done.stderr == "no space left\n"

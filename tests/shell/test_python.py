"""The Python environment of the scripts: when it is made again, and with what."""

from pathlib import Path

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
    shown = 'cat "$SSL_CERT_FILE" "$PIP_CERT"; echo "$UV_DEFAULT_INDEX $PIP_INDEX_URL $HTTPS_PROXY"'
    done = bare.bash(
        f"source sh/messages.sh; source sh/settings.sh; source sh/python.sh; (reach_the_net; {shown})",
        SSL_CERT_FILE=str(tmp_path / "system.pem"),
        TMPDIR=str(tmp_path),
    )
    assert done.stdout.splitlines() == [
        *["of the system", "of the hospital"] * 2,
        "https://mirror.example.org/simple https://mirror.example.org/simple http://proxy.example.org",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["system.pem"]


def test_an_authority_that_cannot_be_read_is_named(bare: Checkout) -> None:
    done = bare.bash(
        "source sh/messages.sh; source sh/settings.sh; source sh/python.sh; reach_the_net", EXTRA_CA_FILE="/no/such.pem"
    )
    assert done.returncode == 1
    assert "EXTRA_CA_FILE=/no/such.pem cannot be read" in done.stderr

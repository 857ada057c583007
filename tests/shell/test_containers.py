"""The scripts without --local: what they hand to Docker Compose, and what they say where it is missing."""

import json
from pathlib import Path

import pytest

from dcm_processor.sources.origin import Origin
from tests.shell.checkout import Checkout

NO_DOCKER = {"PATH": "/nowhere"}


def stack_json(checkout: Checkout, mode: str) -> None:
    run = checkout.folder / "basedir" / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "stack.json").write_text(json.dumps({"startedAt": "now", "mode": mode}, indent=2) + "\n")


def up_call(checkout: Checkout) -> list[str]:
    (call,) = [call for call in checkout.docker_calls() if call[0] == "up"]
    return call


def test_every_word_of_scale_reaches_compose(bare: Checkout) -> None:
    """`--scale worker=3` lost its second word in the system before us."""
    done = bare.run("run.sh", "--scale", "worker=4", **bare.with_docker())
    assert done.returncode == 0, done.stderr
    call = up_call(bare)
    assert call[call.index("--scale") + 1] == "worker=4"
    assert "--wait" in call


def test_any_other_option_goes_to_compose_as_it_was_typed(bare: Checkout) -> None:
    bare.run("run.sh", "--force-recreate", "--scale", "dashboard=2", "--timeout", "7", **bare.with_docker())
    assert up_call(bare)[-5:] == ["--force-recreate", "--scale", "dashboard=2", "--timeout", "7"]


def test_a_second_start_keeps_as_many_workers_as_run(bare: Checkout) -> None:
    bare.run("run.sh", **bare.with_docker(), RUNNING="a\nb\nc\n")
    assert "worker=3" in up_call(bare)


def test_another_compose_file_comes_after_ours(bare: Checkout) -> None:
    bare.run("run.sh", "-f", "docker-compose.gpu.yml", **bare.with_docker())
    (line,) = [line for line in bare.docker_log.read_text().splitlines() if "\tup\t" in line]
    words = line.split("\t")
    files = [words[at + 1] for at, word in enumerate(words) if word == "-f"]
    assert files == [f"{bare.folder}/docker-compose.yml", "docker-compose.gpu.yml"]


def test_servers_of_somebody_else_are_not_started(bare: Checkout) -> None:
    foreign = {"ORTHANC_REST_URL": "https://pacs.example.org/orthanc", "REDIS_URL": "redis://cache.example.org"}
    bare.run("run.sh", **bare.with_docker(), **foreign)
    assert {"orthanc=0", "redis=0"} <= set(up_call(bare))


OURS = "postgresql+psycopg://dcmproc@postgres/dcmproc"


def test_our_postgres_is_started_where_database_url_names_it(bare: Checkout) -> None:
    bare.run("run.sh", **bare.with_docker(), DATABASE_URL=OURS, SUDO_UID="1234", SUDO_GID="1234")
    assert "--profile\tpostgres" in bare.docker_log.read_text()


def test_our_postgres_is_not_started_as_root(bare: Checkout) -> None:
    done = bare.run("run.sh", **bare.with_docker(), DATABASE_URL=OURS, SUDO_UID="0", SUDO_GID="0")
    assert done.returncode == 1
    assert "PostgreSQL does not run as root" in done.stderr


def test_what_compose_refuses_is_not_taken_for_a_stack_that_is_not_healthy(bare: Checkout) -> None:
    docker = {**bare.with_docker(), "REFUSES": "1"}
    refused = bare.run("run.sh", "--bogus", **docker)
    sick = bare.run("run.sh", **docker, SICK="redis running healthy\nworker restarting \n")
    assert (refused.returncode, sick.returncode) == (1, 1)
    assert refused.stderr.splitlines() == ["run.sh: Docker Compose refused; `bash run.sh --help` shows what there is"]
    assert "the end of the log of worker" in sick.stderr
    assert "the log of redis" not in sick.stderr
    assert "not everything became healthy" in sick.stderr


def test_a_first_start_that_compose_refuses_does_not_count_as_one(bare: Checkout) -> None:
    """`bash run.sh --lcoal`, and then `--local` was refused: it would run in containers."""
    state, docker = bare.folder / "basedir" / "run" / "stack.json", {**bare.with_docker(), "REFUSES": "1"}
    stack_json(bare, "containers")  # as the command in a container leaves it before anything is started
    bare.run("run.sh", "--bogus", **docker, SICK="redis running healthy\n")
    assert state.exists(), "it runs"
    bare.run("run.sh", "--bogus", **docker)
    assert not state.exists()


def test_down_goes_by_what_runs_and_forgets_it(bare: Checkout) -> None:
    stack_json(bare, "containers")
    done = bare.run("run.sh", "--down", **bare.with_docker())
    assert done.returncode == 0, done.stderr
    assert bare.docker_calls() == [["down", "--remove-orphans"]]
    assert not (bare.folder / "basedir" / "run" / "stack.json").exists()


def test_service_works_in_a_container_where_the_stack_does_and_mounts_what_it_is_about(
    bare: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "my service").mkdir()
    docker = bare.with_docker()
    stack_json(bare, "containers")
    bare.run("service.sh", "install", "mine", "-p", "my service", cwd=tmp_path, **docker)
    bare.run("service.sh", "backup", "mine", "-b", "new/place", cwd=tmp_path, **docker)
    install, backup = bare.docker_calls()
    assert f"{tmp_path}/my service:{tmp_path}/my service:ro" in install
    assert install[-6:] == ["cli", "service", "install", "mine", "-p", "my service"]
    assert f"{tmp_path}/new/place:{tmp_path}/new/place" in backup
    assert (tmp_path / "new" / "place").is_dir(), "made by the user, not by Docker as root"
    assert not (bare.folder / ".venv").exists()


def test_a_source_on_this_machine_is_mounted_however_it_is_named(bare: Checkout, tmp_path: Path) -> None:
    """By its path or by a URL; the words reach the command line as they were typed."""
    for name in ("a b.git", "at@home.zip", "lung.tar.gz"):
        (tmp_path / name).touch()
    docker = bare.with_docker()
    stack_json(bare, "containers")
    spaced = f"git+file://{tmp_path}/a%20b.git@v1#subdirectory=services/lung"
    sources = {
        spaced: "a b.git",
        f"file://localhost{tmp_path}/at@home.zip": "at@home.zip",
        f"file://{tmp_path}/lung.tar.gz": "lung.tar.gz",
        "lung.tar.gz": "lung.tar.gz",
    }
    for source in sources:
        bare.run("service.sh", "install", "lung", "-p", source, cwd=tmp_path, **docker)
    bare.run("service.sh", "install", "lung", f"--path={spaced}", cwd=tmp_path, **docker)
    bare.run("service.sh", "install", "lung", "-p", "git+https://host/r.git@v1", cwd=tmp_path, **docker)
    *local, joined, remote = bare.docker_calls()
    for call, (source, name) in zip(local, sources.items(), strict=True):
        assert f"{tmp_path}/{name}:{tmp_path}/{name}:ro" in call
        assert call[-5:] == ["service", "install", "lung", "-p", source]
    assert f"{tmp_path}/a b.git:{tmp_path}/a b.git:ro" in joined
    assert not [word for word in remote if "r.git:" in word]


def test_an_update_finds_mounted_where_the_services_came_from(bare: Checkout, tmp_path: Path) -> None:
    for name in ("r.git", "lung"):
        (tmp_path / name).mkdir()
    registry = bare.folder / "basedir" / "registry"
    came_from = {
        "a": f"git+file://{tmp_path}/r.git@v1",
        "b": f"git+file://{tmp_path}/r.git@v1",
        "c": f"{tmp_path}/lung",
    }
    for name, source in {**came_from, "d": "git+https://host/r.git", "e": f"{tmp_path}/gone"}.items():
        (registry / ".versions" / name / "0123").mkdir(parents=True)
        origin = Origin(source, None, None, "2026-01-01T00:00:00+00:00", "1.0")
        (registry / ".versions" / name / "0123.json").write_text(origin.to_json())
        (registry / name).symlink_to(f".versions/{name}/0123")
    docker = bare.with_docker()
    stack_json(bare, "containers")
    done = bare.run("service.sh", "update", cwd=tmp_path, **docker)
    assert done.returncode == 0, done.stderr
    (call,) = bare.docker_calls()
    mounted = [
        word for word in call if word.startswith(f"{tmp_path}/") and word.endswith(":ro") and "checkout" not in word
    ]
    assert mounted == [f"{tmp_path}/{name}:{tmp_path}/{name}:ro" for name in ("r.git", "lung")]
    assert call[-2:] == ["service", "update"]


def test_with_a_local_stack_service_stays_local(ready: Checkout) -> None:
    docker = ready.with_docker()
    stack_json(ready, "local")
    done = ready.run("service.sh", "list", **docker)
    assert done.stdout.split() == ["service", "list"]


@pytest.mark.parametrize("script", ["run.sh", "build.sh"])
def test_without_docker_it_says_what_works_instead(bare: Checkout, script: str) -> None:
    done = bare.bash(f'PATH="{bare.folder}/none"; source {script}')
    assert done.returncode == 1
    assert "Docker is not installed" in done.stderr
    assert "run.sh --local" in done.stderr


@pytest.mark.parametrize(
    ("lacks", "said"), [("compose", "Compose v2 is missing"), ("engine", "the Docker engine does not answer: Cannot")]
)
def test_what_is_missing_of_docker_is_said(bare: Checkout, lacks: str, said: str) -> None:
    done = bare.run("run.sh", **bare.with_docker(**{lacks: False}))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line


def test_sudo_leaves_what_is_written_to_the_user(bare: Checkout) -> None:
    shown = 'echo "$DCMPROC_UID:$DCMPROC_GID"'
    lines = "source sh/messages.sh; source sh/settings.sh; source sh/containers.sh;"
    assert bare.bash(f"{lines} {shown}", SUDO_UID="1234", SUDO_GID="1235").stdout == "1234:1235\n"


def test_build_has_the_folder_of_wheels_in_its_context_only_while_it_builds(bare: Checkout, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    done = bare.run("build.sh", "--no-cache", **bare.with_docker(), WHEEL_DIR=str(tmp_path / "wheels"))
    assert done.returncode == 0, done.stderr
    assert bare.docker_calls()[0] == ["build", "--no-cache"]
    assert not (bare.folder / ".wheels").exists()

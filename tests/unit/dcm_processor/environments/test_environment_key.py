"""The same requirements call for the same environment, whoever works it out."""

import re
from pathlib import Path

import pytest

from dcm_processor.environments.environment_key import DEFAULT_REQUIREMENTS, own_python, recipe
from dcm_processor.settings import Settings


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """An empty module folder."""
    folder = tmp_path / "module"
    folder.mkdir()
    return folder


def key(module: Path, requirements: bytes | None, version: str = "", python: str | None = None, **more: str) -> str:
    if requirements is not None:
        (module / "requirements.txt").write_bytes(requirements)
    return recipe(Settings(BASEDIR=module.parent, **more), module, version, python).key


def test_the_content_decides_and_nothing_else(module: Path) -> None:
    first = key(module, b"numpy\n", "one version")
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    (module / "worker.py").write_text("x = 1\n")
    assert key(module, b"numpy\n", "another") == first
    assert key(module, b"numpy==2\n") != first


def test_ends_of_lines_make_no_difference(module: Path) -> None:
    assert key(module, b"numpy\r\nscipy\r\n") == key(module, b"numpy\nscipy\n")


@pytest.mark.parametrize(
    "requirements",
    [
        b"-r more.txt",
        b"-e .",
        b"./x.whl",
        b"file:x.whl",
        b"a\n-c c.txt\n",
        b"x @ ./x.whl",
        b"x\n--find-links wheels",
        b"lib/x",
        b"lib/x[extra] ; python_version > '3'",
        b"x@lib/x",
        b"wheels/x-1.0-py3-none-any.whl",
        b"x-1.0-py3-none-any.whl",
        b"x @ x-1.0.tar.gz",
        b"\xef\xbb\xbf-r more.txt",
        "-r more.txt".encode("utf-16"),
    ],
)
def test_files_of_the_service_belong_to_its_version(module: Path, requirements: bytes) -> None:
    assert key(module, requirements, "one version") != key(module, requirements, "another")


@pytest.mark.parametrize(
    "requirements",
    [
        b"# -r more.txt",
        b"numpy # ./x",
        b"--index-url https://example.org/simple",
        b"-f https://example.org/wheels",
        b"x @ https://example.org/x-1.0.tar.gz",
        b"x @ git+ssh://git@example.org/x.git@v1",
    ],
)
def test_what_names_no_file_of_the_service_does_not(module: Path, requirements: bytes) -> None:
    assert key(module, requirements, "one version") == key(module, requirements, "another")


def test_what_is_no_text_has_a_key_too(module: Path) -> None:
    assert key(module, b"\xff\xfe") != key(module, b"\xfe\xff")


def test_a_lock_counts_in_the_place_of_the_requirements(module: Path) -> None:
    """Whatever the requirements were that came to it: the first line, which tells of them, is left out."""
    head = b"# locked by dcm-processor at install: " + b"%032x\n"
    (module / "requirements.lock").write_bytes(head % 1 + b"numpy==2.0\n")
    first = key(module, b"numpy\n")
    (module / "requirements.lock").write_bytes(head % 2 + b"numpy==2.0\n")
    assert key(module, b"numpy>=1\n") == first
    (module / "requirements.lock").write_bytes(head % 2 + b"numpy==2.1\n")
    assert key(module, b"numpy>=1\n") != first


def test_index_script_python_and_base_image_count(module: Path) -> None:
    keys = [
        key(module, b"numpy\n"),
        key(module, b"--index-url https://example.org/simple\nnumpy\n"),
        key(module, b"numpy\n", python="3.99"),
        key(module, b"numpy\n", MODE="containers", BASE_IMAGE="python:3.13"),
        key(module, b"numpy\n", MODE="containers", BASE_IMAGE="nvidia/cuda:13"),
    ]
    (module / "script.sh").write_text("apt-get install -y libpq-dev\n")
    keys.append(key(module, b"numpy\n"))
    assert len(set(keys)) == len(keys)


def test_the_python_that_runs_us_is_no_other_python(module: Path) -> None:
    """However exactly `pythonVersion` names it; `3.1` is not the beginning of `3.11`."""
    version = own_python()
    major, minor, _ = version.split(".")
    assert key(module, b"", python=version) == key(module, b"", python=f"{major}.{minor}") == key(module, b"")
    assert key(module, b"", python=version[:-1] if len(version) > 6 else "3.8") != key(module, b"")


def test_the_base_image_is_of_containers_alone(module: Path) -> None:
    """In local mode `.env` names one too, and nobody uses it."""
    assert key(module, b"", BASE_IMAGE="python:3.13") == key(module, b"", BASE_IMAGE="python:3.12")


def test_the_default_requirements_are_there(module: Path) -> None:
    assert recipe(Settings(BASEDIR=module), module, "").is_default
    assert DEFAULT_REQUIREMENTS.is_file()

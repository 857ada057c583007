"""The same requirements call for the same environment, whoever works it out."""

import re

import pytest

from dcm_processor.environment_key import DEFAULT_REQUIREMENTS, environment_key


def test_the_content_decides_and_nothing_else() -> None:
    assert environment_key(b"numpy\n", "one version") == environment_key(b"numpy\n", "another")
    assert environment_key(b"numpy\n", "") != environment_key(b"numpy==2\n", "")
    assert re.fullmatch(r"[0-9a-f]{16}", environment_key(b"", ""))


def test_ends_of_lines_make_no_difference() -> None:
    assert environment_key(b"numpy\r\nscipy\r\n", "") == environment_key(b"numpy\nscipy\n", "")


@pytest.mark.parametrize(
    "requirements", [b"-r more.txt", b"-e .", b"./x.whl", b"file:x.whl", b"a\n-c c.txt\n", b"x @ ./x.whl"]
)
def test_files_of_the_service_belong_to_its_version(requirements: bytes) -> None:
    assert environment_key(requirements, "one version") != environment_key(requirements, "another")


@pytest.mark.parametrize("requirements", [b"# -r more.txt", b"numpy # ./x", b"--index-url https://example.org/simple"])
def test_what_names_no_file_of_the_service_does_not(requirements: bytes) -> None:
    assert environment_key(requirements, "one version") == environment_key(requirements, "another")


def test_what_is_no_text_has_a_key_too() -> None:
    assert environment_key(b"\xff\xfe", "") != environment_key(b"\xfe\xff", "")


def test_the_default_requirements_are_there() -> None:
    assert DEFAULT_REQUIREMENTS.is_file()

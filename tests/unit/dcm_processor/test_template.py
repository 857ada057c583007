"""A new service is the template with another name, and right from the beginning."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from dcm_processor import template
from dcm_processor.errors import ServiceError, UsageError
from dcm_processor.manifest import Defaults, json_schema, parse_manifest
from dcm_processor.vocabulary import Level

TEMP = Path(__file__).parents[3] / "services" / "temp"


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in found}


def test_it_is_services_temp_with_another_name(tmp_path: Path) -> None:
    made = template.write("volume-2", tmp_path)
    assert made == tmp_path / "volume-2"
    assert files(made) == files(TEMP)
    for name in files(made):
        ours, theirs = (made / name).read_text(), (TEMP / name).read_text()
        assert ours == re.sub(r"\btemp\b", "volume-2", theirs), name
        assert not re.search(r"\btemp\b", ours)


def test_its_settings_are_right_and_so_is_the_schema_that_editors_find(tmp_path: Path) -> None:
    registry = template.write("volume", tmp_path) / "registry"
    text = (registry / "settings.json").read_text()
    parsed = parse_manifest(text, "volume", Defaults(Level.STUDY, "default", ("default",)))
    assert [job.job_name for job in parsed.jobs] == ["volume"]
    assert (parsed.faults, parsed.warnings) == ((), ())
    schema = json.loads((registry / json.loads(text)["$schema"]).read_text())
    assert schema == json_schema()
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    ("name", "why", "better"),
    [
        ("json", "Python's standard library", '"my-json" would do'),
        ("3d", "beginning with a letter", '"my-3d" would do'),
        ("lung volume", "is no service name", '"lung-volume" would do'),
        ("../elsewhere", "is no service name", '"elsewhere" would do'),
        ("x" * 65, "1 to 64", f'"{"x" * 64}" would do'),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(tmp_path: Path, name: str, why: str, better: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        template.write(name, tmp_path / "here")
    assert better in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link to nothing"])
def test_what_is_there_already_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "volume"
    {"folder": place.mkdir, "file": place.touch, "link to nothing": lambda: place.symlink_to("nowhere")}[kind]()
    with pytest.raises(ServiceError, match="exists already"):
        template.write("volume", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["volume"]
    assert kind != "folder" or not files(place)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="cannot be written"):
        template.write("volume", tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208

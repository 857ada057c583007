"""`dcm-processor service new` and `validate`: for those who write services."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.environments.environment_key import recipe
from dcm_processor.manifest import Defaults
from dcm_processor.rehearsal.sources import read_source
from dcm_processor.settings import Settings
from dcm_processor.vocabulary import Level
from tests.unit.dcm_processor.cli.conftest import Cli

Source = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dcm-processor"


def findings(cli: Cli, *arguments: str | Path) -> list[Any]:
    result = cli("service", "validate", *arguments, "--json")
    assert result.exit_code == 1, result.output
    found: list[Any] = json.loads(result.stdout)["faults"]
    return found


def test_a_new_service_is_valid(cli: Cli, tmp_path: Path) -> None:
    said = cli.done("service", "new", "volume", "-o", tmp_path / "mine")
    assert said.startswith(f"service volume: made in {tmp_path / 'mine' / 'volume'}\n")
    said = cli.done("service", "validate", tmp_path / "mine" / "volume")
    assert "1 volume" in said
    assert "0 faults, 0 warnings" in said
    assert "read, not imported" in said


def test_a_new_service_that_cannot_be_made_is_one_line(cli: Cli, tmp_path: Path) -> None:
    assert 'choose another name; "my-numpy" would do' in cli.refused("service", "new", "numpy", status=2)
    (tmp_path / "volume").mkdir()
    assert "exists already" in cli.refused("service", "new", "volume", "-o", tmp_path)


def test_every_fault_is_said_at_once_with_file_field_reason_and_the_nearest_name(cli: Cli, source: Source) -> None:
    one = source("one", {"timeout": "soon", "dependsOn": "twoo"})
    two = source("two", {"callback": "two.calback", "dependsOn": "threee", "sortposition": 1})
    (two / "module" / "worker.py").write_text("def worker(jobname): pass\ndef broken(:\n")
    result = cli("service", "validate", one, two)
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert any("fault: service one: registry/settings.json: timeout: must be seconds" in line for line in said)
    assert any("registry/settings.json: callback" in line and "did you mean 'callback'?" in line for line in said)
    assert any("registry/settings.json: worker" in line and "worker.py, line 2" in line for line in said)
    assert any("warning:" in line and 'did you mean "sortPosition"?' in line for line in said)
    assert any("warning:" in line and '"threee", which is not installed' in line for line in said)
    assert "1 job, 3 faults" in result.stdout


def test_dependencies_are_looked_for_among_all_that_are_named(cli: Cli, source: Source) -> None:
    one, two = source("one", {"dependsOn": "two"}), source("two", {"dependsOn": "one"})
    found = findings(cli, one, two)
    assert {(each["job"], each["field"]) for each in found} == {("one", "dependsOn"), ("two", "dependsOn")}
    assert "one → two → one" in found[0]["reason"]
    assert "cycle: " in cli("service", "validate", one, two).stdout
    assert 'did you mean "two"?' in cli("service", "validate", source("one", {"dependsOn": "tow"}), two).stderr


def test_a_folder_that_is_no_service_is_a_fault_and_hides_no_other(cli: Cli, source: Source, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = findings(cli, tmp_path / "empty", tmp_path / "nowhere", source("one", {"level": "slice"}))
    assert [each["service"] for each in found] == ["empty", "empty", "nowhere", "nowhere", "one"]
    assert found[0]["reason"].startswith(f"{tmp_path / 'empty'} has no registry/ and module/")


def test_python_that_cannot_be_read_is_warned_of_unless_no_install_would_take_it(cli: Cli, source: Source) -> None:
    folder = source("one")
    (folder / "module" / "old.py").write_text("print 'python 2'\n")
    (folder / "module" / ".venv").mkdir()
    (folder / "module" / ".venv" / "old.py").write_text("print 'python 2'\n")
    said = cli("service", "validate", folder).stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("warning: service one: module/old.py: SyntaxError: ")


def test_names_that_clash_are_a_fault(cli: Cli, source: Source, tmp_path: Path) -> None:
    two = source("two", {"jobName": "one"})
    [found] = findings(cli, source("one"), two)
    assert (found["service"], found["field"]) == ("two", "jobName")
    again = two.rename(tmp_path / "again")
    [found] = findings(cli, source("two"), again)
    assert found["reason"].startswith("2 of the folders are a service of this name")


def test_a_name_that_its_own_requirements_bring_is_a_fault_with_a_better_one(cli: Cli, source: Source) -> None:
    folder = source("torch")
    (folder / "module" / "requirements.txt").write_text("torch\n")
    [found] = findings(cli, folder)
    assert found["reason"].endswith('"my-torch" would do')


def test_an_import_that_hangs_or_ends_the_process_is_a_fault(cli: Cli, source: Source) -> None:
    folder = source()
    (folder / "registry" / "callback.py").write_text("import time\nwhile True: time.sleep(1)\ndef callback(): pass\n")
    [found] = findings(cli, folder, "--seconds", "1")
    assert found["reason"] == 'job "demo": demo.callback: importing it took longer than 1 s'
    (folder / "registry" / "callback.py").write_text("import os\nos._exit(3)\ndef callback(): pass\n")
    [found] = findings(cli, folder)
    assert found["reason"] == 'job "demo": demo.callback: importing it ended the process (exit status 3)'


def test_worker_functions_are_imported_where_the_environment_is_built(cli: Cli, source: Source, cache: Path) -> None:
    folder = source()
    (folder / "module" / "requirements.txt").write_text("")
    (folder / "module" / "worker.py").write_text("import nothing_of_the_kind\ndef worker(): pass\n")
    assert cli("service", "validate", folder).exit_code == 0
    digest = read_source(folder, Defaults(Level.STUDY, "default", ("default",))).digest
    environment = cache / "envs" / recipe(Settings(), folder / "module", digest).key
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    (environment / "complete.json").touch()
    [found] = findings(cli, folder)
    assert "No module named 'nothing_of_the_kind'" in found["reason"]


def test_the_plan_is_drawn_by_stage_and_dependency(cli: Cli, source: Source) -> None:
    folders = [
        source("clean", {"stage": "pre"}),
        source("convert", {"priority": "high"}),
        source("measure", {"dependsOn": ["convert", "nothing"], "level": "series"}),
        source("report", {"stage": "post", "dependsOn": "*", "disabled": True}),
    ]
    lines = cli.done("service", "validate", *folders).splitlines()
    assert [line.rstrip() for line in lines[:8]] == [
        "plan",
        "├── stage pre",
        "│   └── 1 clean  default",
        "├── stage main",
        "│   └── 2 convert  high",
        "│       └── 3 measure  default · each series  nothing is not here",
        "└── stage post",
        "    └── 4 report  default · after all that come before  disabled",
    ]


def test_for_programs_there_is_one_document(cli: Cli, source: Source) -> None:
    document = json.loads(cli.done("service", "validate", source("one"), "--json"))
    assert document["valid"] is True
    assert [(job["jobName"], job["service"], job["after"]) for job in document["plan"]] == [("one", "one", [])]
    assert {(each["role"], each["checked"]) for each in document["functions"]} == {
        ("callback", "imported"),
        ("worker", "read"),
    }


def test_a_name_is_given_to_one_folder_only(cli: Cli, source: Source) -> None:
    assert "name one PATH" in cli.refused("service", "validate", source("a"), source("b"), "--name", "c", status=2)
    found = findings(cli, source("a"), "--name", "c")
    assert {each["field"] for each in found} == {"worker", "callback"}

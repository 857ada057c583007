"""`dcm-processor service`, with nothing running."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcm_processor.errors import LedgerUnavailableError
from dcm_processor.ledger import Ledger, events, plans
from dcm_processor.version_links import VersionLinks
from dcm_processor.vocabulary import JobState, StudyState, Verdict
from tests.ledgers import new_ledger
from tests.unit.dcm_processor.cli.conftest import Cli

Source = Callable[..., Path]


def test_with_nothing_running_a_service_is_installed_all_the_same(cli: Cli, source: Source) -> None:
    said = cli.done("service", "install", "demo", "-p", source())
    assert said.startswith("service demo: installed, version ")
    assert "job demo (level study, stage main, queue default)" in said
    assert (cli.base / "registry" / "demo" / "settings.json").is_file()
    assert (cli.base / "modules" / "demo" / "worker.py").is_file()


def test_installing_again_is_harmless_and_said(cli: Cli, source: Source) -> None:
    cli.done("service", "install", "demo", "-p", source())
    assert cli.done("service", "install", "demo", "-p", source()).startswith(
        "service demo: already installed, version "
    )


def test_a_service_that_is_not_installed_is_said_with_what_to_do(cli: Cli, source: Source) -> None:
    cli.done("service", "install", "demo", "-p", source())
    for name, hint in (("dmeo", 'did you mean "demo"?'), ("else", "`bash service.sh list` shows those that are")):
        assert cli.refused("service", "remove", name) == f"dcm-processor: no service {name} is installed; {hint}\n"


def test_warnings_go_to_stderr_and_stop_nothing(cli: Cli, source: Source) -> None:
    result = cli("service", "install", "demo", "-p", source(job={"dependsOn": "later", "dependson": "x"}))
    assert result.exit_code == 0
    assert "warning: service demo: registry/settings.json: dependson: is no field" in result.stderr
    assert '"later", which is not installed' in result.stderr


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ({"timeout": "soon"}, "timeout: must be seconds"),
        ({"priority": "urgent"}, "priority: "),
        ({"worker": "os.system"}, "worker: "),
        ({"dependsOn": "demo"}, "demo → demo"),
    ],
)
def test_what_is_wrong_is_refused_with_file_field_and_reason(cli: Cli, source: Source, job: Any, says: str) -> None:
    said = cli.refused("service", "install", "demo", "-p", source(job=job))
    assert "registry/settings.json" in said
    assert says in said
    assert not (cli.base / "registry" / "demo").exists()


def test_several_faults_are_said_together_one_a_line(cli: Cli, source: Source) -> None:
    said = cli.refused("service", "install", "demo", "-p", source(job={"timeout": "soon", "level": "slice"}))
    assert said.startswith("dcm-processor: 2 faults:\n")
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("name", ["../data", "/etc", "..", "a b"])
def test_a_name_that_leads_elsewhere_is_wrong_usage_and_touches_nothing(cli: Cli, source: Source, name: str) -> None:
    (cli.base / "data").mkdir(parents=True)
    (cli.base / "data" / "precious").write_text("")
    assert "is no service name" in cli.refused("service", "remove", name, status=2)
    assert "is no service name" in cli.refused("service", "install", name, "-p", source(), status=2)
    assert "is no service name" in cli.refused("service", "backup", name, "-b", cli.base / "backup", status=2)
    assert [str(path.relative_to(cli.base)) for path in cli.base.rglob("*") if path.is_file()] == ["data/precious"]


def test_what_was_backed_up_installs_again_to_the_same_version(cli: Cli, source: Source, tmp_path: Path) -> None:
    cli.done("service", "install", "demo", "-p", source())
    [before] = json.loads(cli.done("service", "list", "--json"))
    assert str(tmp_path / "backup" / "demo") in cli.done("service", "remove", "demo", "-b", tmp_path / "backup")
    assert json.loads(cli.done("service", "list", "--json")) == []
    cli.done("service", "install", "demo", "-p", tmp_path / "backup" / "demo")
    [after] = json.loads(cli.done("service", "list", "--json"))
    assert after["version"] == before["version"]


def test_a_backup_that_cannot_be_made_removes_nothing(cli: Cli, source: Source, tmp_path: Path) -> None:
    cli.done("service", "install", "demo", "-p", source())
    (tmp_path / "backup" / "demo").mkdir(parents=True)
    (tmp_path / "backup" / "demo" / "older").write_text("")
    assert "holds something else" in cli.refused("service", "remove", "demo", "-b", tmp_path / "backup")
    assert (cli.base / "registry" / "demo").exists()


def test_the_list_shows_jobs_and_faults(cli: Cli, source: Source) -> None:
    cli.done("service", "install", "demo", "-p", source())
    (cli.base / "registry" / "manual").mkdir()
    lines = [line.split("\t") for line in cli.done("service", "list").splitlines()]
    assert lines[0] == ["SERVICE", "VERSION", "COMMIT", "SOURCE", "SINCE", "ENVIRONMENT", "JOBS", "STATE"]
    assert (lines[1][0], *lines[1][5:]) == ("demo", "not built", "demo", "in order")
    assert lines[1][3] == str(cli.base.parent / "sources" / "demo")
    assert "by hand" in lines[2][7]


def test_a_disabled_service_is_listed_as_one_until_it_is_enabled(cli: Cli, source: Source) -> None:
    cli.done("service", "install", "demo", "-p", source())
    assert cli.done("service", "disable", "demo") == "service demo: disabled, from the next study on\n"
    assert cli.done("service", "disable", "demo") == "service demo: disabled already\n"
    assert "disabled since 20" in cli.done("service", "list")
    [listed] = json.loads(cli.done("service", "list", "--json"))
    assert (listed["enabled"], listed["jobs"][0]["disabled"]) == (False, True)
    assert listed["disabledSince"].startswith("20")
    assert json.loads(cli.done("service", "enable", "demo", "--json")) == {
        "name": "demo",
        "enabled": True,
        "changed": True,
    }
    [listed] = json.loads(cli.done("service", "list", "--json"))
    assert (listed["enabled"], listed["disabledSince"]) == (True, None)
    assert 'did you mean "demo"?' in cli.refused("service", "disable", "dmeo")


def test_a_rollback_says_from_which_version_to_which(cli: Cli, source: Source) -> None:
    cli.done("service", "install", "demo", "-p", source())
    assert "no version but the current one" in cli.refused("service", "rollback", "demo")
    [old] = json.loads(cli.done("service", "list", "--json"))
    (source() / "module" / "more.py").write_text("")
    cli.done("service", "install", "demo", "-p", cli.base.parent / "sources" / "demo")
    [new] = json.loads(cli.done("service", "list", "--json"))
    said = cli.done("service", "rollback", "demo")
    assert said == f"service demo: version {new['version'][:12]} → {old['version'][:12]}, from the next study on\n"
    back = json.loads(cli.done("service", "rollback", "demo", "--to", new["version"][:7], "--json"))
    assert back == {"name": "demo", "version": new["version"], "before": old["version"], "warnings": []}
    assert "there are: " in cli.refused("service", "rollback", "demo", "--to", "zz", status=2)


def test_every_answer_can_be_had_as_json(cli: Cli, source: Source, tmp_path: Path) -> None:
    installed = json.loads(cli.done("service", "install", "demo", "-p", source(), "--json"))
    assert (installed["changed"], installed["jobs"][0]["jobName"]) == (True, "demo")
    backed_up = json.loads(cli.done("service", "backup", "demo", "-b", tmp_path / "backup", "--json"))
    assert backed_up["version"] == installed["version"]
    removed = json.loads(cli.done("service", "remove", "demo", "--json"))
    assert removed == {"name": "demo", "removed": True, "cancelled": 0, "running": 0, "backup": None}


def jobs_of(cli: Cli, *states: JobState, digest: str = "0" * 32) -> Ledger:
    """A ledger with a job of service `demo` in each of these states."""
    ledger = new_ledger(f"sqlite:///{cli.base / 'db' / 'ledger.sqlite'}")
    with ledger.write() as db:
        events.meet(db, "s", StudyState.RUNNING, now=0)
        rows = [
            {"job_id": f"j{number}", "plan_id": "p", "study_id": "s", "job_name": f"j{number}", "service": "demo"}
            | {
                "digest": digest,
                "position": number,
                "settings": {"stage": "main", "level": "study"},
                "verdict": Verdict.SCHEDULED,
                "state": state,
            }
            | {"dependencies": [], "created_at": 0, "attempt": 0, "series_id": None, "queue": "default"}
            | {"reason": None, "traceback": None, "output": None, "injected": None}
            for number, state in enumerate(states)
        ]
        plan = {"plan_id": "p", "study_id": "s", "revision": "r", "run": 1, "reason": "stable"}
        plans.add(db, {**plan, "headers": {}, "selected": [], "instances": {}, "faults": []}, rows, now=0)
    return ledger


def test_removing_with_jobs_waiting_says_how_many_before_and_cancels_them(cli: Cli, source: Source) -> None:
    """Also with Redis away: the controller finds them by its clock."""
    cli.done("service", "install", "demo", "-p", source())
    ledger = jobs_of(cli, JobState.WAITING, JobState.WAITING, JobState.RETRYING, JobState.STARTED, JobState.FINISHED)
    said = cli.done("service", "remove", "demo").splitlines()
    assert said == [
        "jobs that have not started, and will be cancelled: 3 (1 retrying, 2 waiting)",
        "jobs that run, and go on with the files they have: 1",
        "service demo: removed",
    ]
    states = {job["jobName"]: job["state"] for job in ledger.jobs().items}
    assert states == {"j0": "cancelled", "j1": "cancelled", "j2": "cancelled", "j3": "started", "j4": "finished"}
    ledger.close()


def test_a_removal_that_was_cut_short_is_finished_by_the_next(
    cli: Cli, source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The service was gone, its jobs were not: "not installed" would leave them waiting for ever."""
    cli.done("service", "install", "demo", "-p", source())
    ledger = jobs_of(cli, JobState.WAITING, JobState.STARTED)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "cancel_service", refuse)
        cut_short = cli("service", "remove", "demo")
    assert cut_short.exit_code == 1
    assert "service demo is removed, but not its jobs: the disk is full; try that again" in cut_short.stderr
    assert not (cli.base / "registry" / "demo").exists()
    assert "no service demo is installed" in cli.refused("service", "remove", "demo", "-b", tmp_path / "kept")
    assert cli.done("service", "remove", "demo").splitlines() == [
        "jobs that have not started, and will be cancelled: 1 (1 waiting)",
        "jobs that run, and go on with the files they have: 1",
        "service demo: was removed before, and its jobs are cancelled now",
    ]
    assert [job["state"] for job in ledger.jobs().items] == ["started", "cancelled"]
    assert "no service demo is installed" in cli.refused("service", "remove", "demo")
    ledger.close()


def refuse(*_: object) -> None:
    raise LedgerUnavailableError("the disk is full")


def test_where_the_services_cannot_be_read_nothing_is_removed_nor_cancelled(
    cli: Cli, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be seen may be installed all the same."""
    cli.done("service", "install", "demo", "-p", source())
    ledger = jobs_of(cli, JobState.WAITING)
    with monkeypatch.context() as patch:
        patch.setattr(VersionLinks, "current", unreadable)
        assert "the services cannot be read: " in cli("service", "remove", "demo").stderr
    assert [job["state"] for job in ledger.jobs().items] == ["waiting"]
    assert "service demo: removed" in cli.done("service", "remove", "demo")
    ledger.close()


def unreadable(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_old_versions_go_with_later_installs_but_those_of_unended_jobs_stay(cli: Cli, source: Source) -> None:
    for number in range(6):
        (source() / "module" / "number").write_text(str(number))
        cli.done("service", "install", "demo", "-p", cli.base.parent / "sources" / "demo")
        if number == 0:
            [pinned] = (cli.base / "modules" / ".versions" / "demo").iterdir()
            jobs_of(cli, JobState.WAITING, digest=pinned.name).close()
    kept = {path.name for path in (cli.base / "modules" / ".versions" / "demo").iterdir()}
    assert len(kept) == 5
    assert pinned.name in kept
    [listed] = json.loads(cli.done("service", "list", "--json"))
    assert set(listed["versions"]) == kept


def test_the_files_of_a_running_job_stay(cli: Cli, source: Source) -> None:
    cli.done("service", "install", "demo", "-p", source())
    [version] = (cli.base / "modules" / ".versions" / "demo").iterdir()
    jobs_of(cli, JobState.STARTED).close()
    cli.done("service", "remove", "demo")
    assert (version / "worker.py").exists()


@pytest.mark.parametrize(
    ("mode", "asked", "warned"),
    [("local", "0", True), ("local", "1", False), ("containers", "0", False)],
)
def test_a_script_that_will_not_be_run_is_said_at_install(
    cli: Cli, source: Source, monkeypatch: pytest.MonkeyPatch, *, mode: str, asked: str, warned: bool
) -> None:
    """In local mode, unless it was asked for; and each time, since what it would install may still be missing."""
    monkeypatch.setenv("MODE", mode)
    monkeypatch.setenv("RUN_SCRIPTS", asked)
    folder = source()
    (folder / "module" / "script.sh").write_text("apt-get install -y dcmtk\n")
    for _ in range(2):
        result = cli("service", "install", "demo", "-p", folder, "--json")
        assert result.exit_code == 0
        said = json.loads(result.stdout)["warnings"]
        assert said == ([said[0]] if warned else [])
        for text in (result.stderr, *said):
            assert ("service demo: module/script.sh: is not run in local mode" in text) == warned
            assert ("RUN_SCRIPTS=1" in text) == warned

"""The oracle finds what is wrong: a faultless run is judged well, and each thing that goes wrong in it is found."""

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults import leftovers, oracle, record, services, studies
from tests.faults.oracle import Finding
from tests.faults.record import Line, Record
from tests.faults.services import Job, Rule

JOBS = (
    Job("each", "made", Rule("series"), retry={"lost": 2}),
    Job("all", "made", Rule("study"), ("each",), retry={"lost": 2}),
    Job("last", "made", Rule("study"), stage="post", retry={"lost": 2}),
)
STUDY = next(study for study in studies.draw(1, 50) if len(study.series) > 1)
OTHER = studies.draw(2, 1)[0]


def named(unit: str, files: int, attempt: int = 1) -> list[dict[str, Any]]:
    """An attempt's named results."""
    return [{"name": "unit", "value": unit}, {"name": "attempt", "value": attempt}, {"name": "files", "value": files}]


class Run:
    """What a platform says and leaves that makes no mistake, and that a test then changes."""

    def __init__(self, folder: Path) -> None:
        self.data = folder
        self.record = Record()
        self.jobs: dict[str, dict[str, Any]] = {}
        series = [each.series_id for each in STUDY.series]
        for job in JOBS:
            for one in series if job.rule.level == "series" else [None]:
                self._finish(job, one)
        plan = {
            "planId": "plan-1", "active": True, "revision": "r", "run": 1, "jobs": list(self.jobs.values()),
            "numberOfInstances": len(STUDY.instances),
        }  # fmt: skip
        self.told: dict[str, Any] = {
            STUDY.study_id: {"studyId": STUDY.study_id, "state": "finished", "reason": None, "plans": [plan]}
        }

    def _finish(self, job: Job, series: str | None) -> None:
        job_id = job.name + (f"/{series}" if series else "")
        at = float(len(self.record.lines))
        own = {"study": STUDY.study_id, "series": series, "job": job.name, "plan": "plan-1", "attempt": 1}
        taken = [each for each in STUDY.series if series in (None, each.series_id)]
        files = tuple(
            (each.instance_id, hashlib.sha256(each.pixels).hexdigest()[:16]) for one in taken for each in one.instances
        )
        for what, how in (("begin", ""), ("end", "done")):
            place = len(self.record.lines)
            line = Line(place, what, STUDY.study_id, series, job.name, 1, at, "plan-1", 1, how, files)
            self.record.lines.append(line)
        self.jobs[job_id] = {
            "jobId": job_id, "planId": "plan-1", "jobName": job.name, "seriesId": series, "verdict": "scheduled",
            "state": "finished", "reason": None, "stage": job.stage, "reusedFrom": None, "endedAt": at + 1,
            "dependsOn": [other for other in self.jobs if other.split("/")[0] in job.depends_on],
            "attempts": [{
                "attempt": 1, "state": "finished", "attemptId": f"{job_id}-1",
                "results": named(series or STUDY.study_id, len(files)),
            }],
        }  # fmt: skip
        self.result(job.name, series).parent.mkdir(parents=True)
        self.result(job.name, series).write_text(json.dumps({**own, "files": files}))

    def result(self, job: str, series: str | None = None) -> Path:
        return self.data.joinpath("results", STUDY.study_id, *filter(None, (job, series)), "result.json")

    def findings(self) -> list[Finding]:
        return oracle.judge([STUDY], JOBS, self.record, self.told, self.data).findings

    def line(self, job: str, what: str, **values: Any) -> Line:
        """The job's line, with other values."""
        found = next(line for line in self.record.lines if (line.job, line.what) == (job, what))
        return replace(found, **values)


def test_a_run_without_a_mistake_is_judged_well(tmp_path: Path) -> None:
    assert Run(tmp_path).findings() == []


def _has_no_plan(run: Run) -> None:
    run.told[STUDY.study_id]["plans"] = []


def _is_not_known(run: Run) -> None:
    run.told = {}


def _lacks_an_instance(run: Run) -> None:
    run.told[STUDY.study_id]["plans"][0]["numberOfInstances"] -= 1


def _stays_waiting(run: Run) -> None:
    run.jobs["last"].update(state="waiting", attempts=[])


def _is_missing_from_the_plan(run: Run) -> None:
    run.told[STUDY.study_id]["plans"][0]["jobs"].pop()


def _has_no_results(run: Run) -> None:
    run.result("all").unlink()


def _failed_for_nothing(run: Run) -> None:
    run.jobs["last"].update(state="failed", reason="the job's files could not be fetched")
    run.jobs["last"]["attempts"][0]["state"] = "failed"


def _ran_without_the_ledger(run: Run) -> None:
    run.record.lines.append(run.line("all", "begin", place=99, attempt=2))


def _began_one_attempt_twice(run: Run) -> None:
    run.record.lines.append(run.line("all", "begin", place=99))


def _began_again_after_it_finished(run: Run) -> None:
    run.record.lines.append(run.line("all", "begin", place=99, attempt=2))
    run.jobs["all"]["attempts"].append({"attempt": 2, "state": "lost", "attemptId": "all-2"})


def _finished_twice(run: Run) -> None:
    run.jobs["all"]["attempts"].append({"attempt": 2, "state": "finished", "attemptId": "all-2", "results": []})


def _was_planned_twice(run: Run) -> None:
    plan = run.told[STUDY.study_id]["plans"][0]
    run.told[STUDY.study_id]["plans"].append({**plan, "active": False, "jobs": []})


def _began_before_its_dependency_ended(run: Run) -> None:
    run.jobs["all"]["dependsOn"] = ["last"]


def _began_before_an_earlier_stage_ended(run: Run) -> None:
    run.jobs["all"]["endedAt"] = 1000.0


def _saw_a_file_of_another_study(run: Run) -> None:
    files = tuple((each, "0" * 16) for each in OTHER.instances)
    run.record.lines.append(run.line("all", "end", place=99, files=files))


def _was_given_parameters_of_another_study(run: Run) -> None:
    given = (f"each/{OTHER.study_id}",)
    run.record.lines.append(Line(99, "callback", STUDY.study_id, None, "all", 1, 0.0, tokens=given))


def _was_given_results_of_another_study(run: Run) -> None:
    given = (("each", OTHER.study_id, None, "plan-9"),)
    run.record.lines.append(run.line("all", "end", place=99, inputs=given))


def _has_the_results_of_another_job(run: Run) -> None:
    run.result("all").write_text(run.result("last").read_text())


def _has_results_of_an_attempt_that_was_lost(run: Run) -> None:
    result = json.loads(run.result("all").read_text())
    run.result("all").write_text(json.dumps({**result, "attempt": 7}))


def _finished_though_its_function_never_did(run: Run) -> None:
    run.record.lines = [line for line in run.record.lines if (line.job, line.what) != ("all", "end")]


def _lost_a_named_result(run: Run) -> None:
    run.jobs["all"]["attempts"][0]["results"].pop()


def _has_a_named_result_of_another_attempt(run: Run) -> None:
    run.jobs["all"]["attempts"][0]["results"] += named(STUDY.study_id, 1, attempt=2)


def _left_results_of_an_unknown_study(run: Run) -> None:
    (run.data / "results" / OTHER.study_id).mkdir()


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        ("lost", _has_no_plan),
        ("lost", _is_not_known),
        ("lost", _lacks_an_instance),
        ("lost", _stays_waiting),
        ("lost", _is_missing_from_the_plan),
        ("lost", _has_no_results),
        ("unexplained", _failed_for_nothing),
        ("doubled", _ran_without_the_ledger),
        ("doubled", _began_one_attempt_twice),
        ("doubled", _began_again_after_it_finished),
        ("doubled", _finished_twice),
        ("doubled", _was_planned_twice),
        ("early", _began_before_its_dependency_ended),
        ("early", _began_before_an_earlier_stage_ended),
        ("mixed", _saw_a_file_of_another_study),
        ("mixed", _was_given_parameters_of_another_study),
        ("mixed", _was_given_results_of_another_study),
        ("mixed", _has_the_results_of_another_job),
        ("lost", _lost_a_named_result),
        ("mixed", _has_a_named_result_of_another_attempt),
        ("mixed", _left_results_of_an_unknown_study),
        ("unexplained", _has_results_of_an_attempt_that_was_lost),
        ("unexplained", _finished_though_its_function_never_did),
    ],
)
def test_a_mistake_is_found(tmp_path: Path, kind: str, mistake: Callable[[Run], None]) -> None:
    run = Run(tmp_path)
    mistake(run)
    assert kind in {finding.kind for finding in run.findings()}


def test_a_job_whose_workers_were_lost_too_often_is_explained_and_what_depends_on_it_is_skipped() -> None:
    assert oracle.expected(JOBS, STUDY)["all", None] == "finished"
    lost = ("each", STUDY.series[0].series_id)
    found = oracle.expected(JOBS, STUDY, [lost])
    assert (found[lost], found["all", None], found["last", None]) == ("failed", "skipped", "finished")


@pytest.mark.parametrize("module", [oracle, record, leftovers, studies, services])
def test_the_oracle_and_what_it_rests_on_import_nothing_of_ours(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {"dcm_processor", "scheduler", "worker", "dashboard"} & {name.partition(".")[0] for name in names}

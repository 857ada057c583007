"""A plan's jobs as one of them sees the others: injected, inputs, outcomes (DESIGN 2, "Levels and dependencies").

Pure. Jobs are mappings with job_id, job_name, study_id, series_id, dependencies (job ids), settings (as
`JobSettings.to_json` has them), verdict, state, reason, and, for `injected` alone, injected.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dcm_processor.job_settings import ALL
from dcm_processor.vocabulary import JobState, Verdict

_NOT_HERE = "not installed, or not usable"


class PlanView:
    """All jobs of a plan, as they are now."""

    def __init__(self, jobs: Sequence[Mapping[Any, Any]]) -> None:
        self._by_id = {job["job_id"]: job for job in jobs}
        self.by_name: dict[str, list[Mapping[Any, Any]]] = defaultdict(list)
        for job in jobs:
            self.by_name[job["job_name"]].append(job)

    @property
    def series_jobs(self) -> list[str]:
        """Names of the jobs that are there for each series."""
        return [name for name, jobs in self.by_name.items() if jobs[0]["series_id"] is not None]

    def injected(self) -> dict[str, Any]:
        """Job name -> what its callback injected, of series jobs by series."""
        found: dict[str, Any] = {}
        for name, rows in self.by_name.items():
            each = {row["series_id"]: row["injected"] for row in rows if row["injected"]}
            if each:
                found[name] = each if rows[0]["series_id"] is not None else each[None]
        return found

    def outcomes(self, job: Mapping[Any, Any]) -> dict[str, Any]:
        """Name of a dependency -> how it ended, or why it never ran."""
        named = {self._by_id[job_id]["job_name"]: None for job_id in job["dependencies"]}
        named |= dict.fromkeys(name for name in job["settings"]["dependsOn"] if name != ALL)
        seen: dict[str, Any] = {}
        for name in named:
            if (rows := self.by_name.get(name)) is None:
                seen[name] = {"state": JobState.SKIPPED, "reason": _NOT_HERE}
                continue
            own = [row for row in rows if row["series_id"] in (None, job["series_id"])]
            if job["series_id"] is None and rows[0]["series_id"] is not None:
                seen[name] = _together(rows)
            elif own:
                seen[name] = _outcome(own[0])
        return seen

    def inputs(self, job: Mapping[Any, Any]) -> dict[str, Any]:
        """Job name -> folder of its results below DATA, of finished dependencies."""
        found: dict[str, Any] = {}
        for job_id in job["dependencies"]:
            dependency = self._by_id[job_id]
            if dependency["state"] != JobState.FINISHED:
                continue
            folder = result_folder(dependency)
            if dependency["series_id"] is None or job["series_id"] is not None:
                found[dependency["job_name"]] = folder
            else:
                found.setdefault(dependency["job_name"], {})[dependency["series_id"]] = folder
        return found


def added_params(injected: Mapping[str, Any], series_jobs: Collection[str], series_id: str | None) -> dict[str, Any]:
    """What a job of the study (None) or of one of its series sees of `PlanView.injected`, by job name."""
    if series_id is None:
        return dict(injected)
    of_series = frozenset(series_jobs)
    seen = {name: v.get(series_id) if name in of_series else v for name, v in injected.items()}
    return {name: value for name, value in seen.items() if value is not None}


def result_folder(job: Mapping[Any, Any]) -> str:
    """Where a finished job's results lie, relative to DATA."""
    folder = f"results/{job['study_id']}/{job['job_name']}"
    return f"{folder}/{job['series_id']}" if job["series_id"] else folder


def _outcome(job: Mapping[Any, Any]) -> dict[str, Any]:
    return {"state": job["state"] or job["verdict"], "reason": job["reason"]}


def _together(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """A series job's outcomes as a study job sees them: one state for all, and each series' own."""
    states = [row["state"] or row["verdict"] for row in rows if row["verdict"] == Verdict.SCHEDULED] or [
        row["state"] or row["verdict"] for row in rows
    ]
    worst = next((state for state in states if state != JobState.FINISHED), JobState.FINISHED)
    reason = next((row["reason"] for row in rows if (row["state"] or row["verdict"]) == worst), None)
    return {"state": str(worst), "reason": reason, "series": {row["series_id"]: _outcome(row) for row in rows}}

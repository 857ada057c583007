"""What a service that is not installed would have said to studies of the past: counted, study by study."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcm_processor.plan import CallbackOutcome, JobKey


@dataclass
class Count:
    """Of one job: how many studies it would have taken, how many runs that makes, and how many callbacks failed."""

    studies: int = 0
    runs: int = 0
    failed: int = 0


@dataclass
class Replay:
    """What is known so far; `items` are the studies as `study_document` has them."""

    jobs: dict[str, Count] = field(default_factory=dict)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, study: Mapping[str, Any], outcomes: Mapping[JobKey, CallbackOutcome]) -> None:
        """Count what the callbacks said of a study (an item of the API's kept headers)."""
        for name in dict.fromkeys(key.job_name for key in outcomes):
            count = self.jobs.setdefault(name, Count())
            said = [outcome for key, outcome in outcomes.items() if key.job_name == name]
            runs = sum(outcome.applies and outcome.error is None for outcome in said)
            count.runs += runs
            count.studies += runs > 0
            count.failed += sum(outcome.error is not None for outcome in said)
            self.errors.update((name, outcome.error) for outcome in said if outcome.error is not None)
        self.items.append(study_document(study, outcomes))

    @property
    def taken(self) -> Sequence[dict[str, Any]]:
        """The studies for which a job would have run."""
        return [item for item in self.items if item["taken"]]

    @property
    def failed(self) -> int:
        """How many callbacks failed."""
        return sum(count.failed for count in self.jobs.values())


def study_document(study: Mapping[str, Any], outcomes: Mapping[JobKey, CallbackOutcome]) -> dict[str, Any]:
    """A study with what each callback said, in the words of the HTTP API."""
    jobs = [
        {
            "jobName": key.job_name,
            "seriesId": key.series_id,
            "applies": outcome.applies if outcome.error is None else None,
            "injected": outcome.injected,
            "error": outcome.error,
            "traceback": outcome.traceback,
            "callbackOutput": outcome.output,
        }
        for key, outcome in outcomes.items()
    ]
    return {
        "studyId": study["studyId"],
        "plannedAt": study["plannedAt"],
        "taken": any(job["applies"] for job in jobs),
        "jobs": jobs,
    }

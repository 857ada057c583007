"""The oracle: from what was sent, what the services wrote down and what the platform says of itself to a judgement.

It imports nothing of the platform. What is to become of each job it works out itself, from the rules of `services.py`
and the words of docs/contract.md.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.faults.record import Line, Record
from tests.faults.services import STAGES, Job
from tests.faults.studies import Study

Key = tuple[str, str | None]
"""A job of a study: its name, and the series of a series job."""

ENDED = ("finished", "failed", "skipped", "cancelled", "superseded")
_CLOCK = 0.05  # seconds that times of two processes of one machine may differ by


@dataclass(frozen=True)
class Finding:
    """What is not as it must be. kind: lost, doubled, mixed, early, unexplained or left."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass
class Judgement:
    """All findings, and what was counted on the way."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def say(self, kind: str, what: str) -> None:
        self.findings.append(Finding(kind, what))

    def number(self, *kinds: str) -> int:
        return sum(finding.kind in kinds for finding in self.findings)


def judge(
    studies: Sequence[Study], jobs: Sequence[Job], record: Record, told: Mapping[str, Mapping[str, Any]], data: Path
) -> Judgement:
    """Judge a run: `told` is what the API says of each study, `data` where the results lie."""
    found = Judgement()
    known = {study.study_id: study for study in studies}
    for study in studies:
        answer = told.get(study.study_id)
        found.counts["studies"] += 1
        if answer is None or not answer["plans"]:
            found.say("lost", f"study {study.number} ({study.study_id}) has no plan")
            continue
        _StudyJudge(study, jobs, answer, record=record, data=data, found=found).judge()
    for line in record.lines:
        if line.study not in known:
            found.say("mixed", f"a function or callback ran for study {line.study}, which was never sent")
    for study_id in told.keys() - known.keys():
        found.say("mixed", f"the ledger has study {study_id}, which was never sent")
    results = data / "results"
    for place in results.iterdir() if results.exists() else ():
        if place.name not in known:
            found.say("mixed", f"results of study {place.name}, which was never sent")
    return found


class _StudyJudge:
    """One study."""

    def __init__(
        self,
        study: Study,
        jobs: Sequence[Job],
        answer: Mapping[str, Any],
        *,
        record: Record,
        data: Path,
        found: Judgement,
    ) -> None:
        self.study, self.jobs, self.answer, self.data, self.found = study, jobs, answer, data, found
        self.lines = [line for line in record.lines if line.study == study.study_id]
        self.plans = answer["plans"]
        self.active = next((plan for plan in self.plans if plan["active"]), None)
        self.rows = {row["jobId"]: row for plan in self.plans for row in plan["jobs"]}
        self.begins: dict[str, list[Line]] = defaultdict(list)
        self.ends: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            if line.what != "callback":
                (self.begins if line.what == "begin" else self.ends)[self._job_id(line)].append(line)

    def judge(self) -> None:
        name = f"study {self.study.number} ({self.study.study_id})"
        if self.active is None or self.active["numberOfInstances"] != len(self.study.instances):
            held = self.active and self.active["numberOfInstances"]
            self.found.say("lost", f"{name}: {held} of {len(self.study.instances)} instances are planned")
            return
        if self.answer["state"] not in ("finished", "failed"):
            self.found.say("lost", f"{name} is {self.answer['state']}: {self.answer['reason']}")
        revisions = Counter((plan["revision"], plan["run"]) for plan in self.plans)
        for revision, number in revisions.items():
            if number > 1 or revision[1] > 1:
                self.found.say("doubled", f"{name}: revision {revision[0]} was planned again")
        self._verdicts()
        for job_id, row in self.rows.items():
            self._attempts(job_id, row)
        for plan in self.plans:
            self._order(plan)
        for line in self.lines:
            self._content(line)
        self._results()

    # -- every applicable job finished once by its rules

    def _verdicts(self) -> None:
        assert self.active is not None
        rows = {(row["jobName"], row["seriesId"]): row for row in self.active["jobs"]}
        lost = {key for key, row in rows.items() if self._lost_by_rule(row)}
        self.found.counts["jobs"] += len(rows)
        self.found.counts["given up"] += len(lost)
        wanted = expected(self.jobs, self.study, lost)
        for key in wanted.keys() | rows.keys():
            row = rows.get(key)
            ended = row and (row["state"] or row["verdict"])
            if ended != wanted.get(key):
                kind = "lost" if ended not in ENDED else "unexplained"
                why = f" ({row['reason']})" if row else ""
                self.found.say(kind, f"{self._name(*key)} is {ended}, and should be {wanted.get(key)}{why}")

    def _lost_by_rule(self, row: Mapping[str, Any]) -> bool:
        """Whether it failed since its attempts were lost oftener than `retry.lost` allows."""
        lost = sum(attempt["state"] == "lost" for attempt in row["attempts"])
        most = next(job.retry["lost"] for job in self.jobs if job.name == row["jobName"])
        return row["state"] == "failed" and str(row["reason"]).startswith("worker lost") and lost == most + 1

    # -- nothing doubled

    def _attempts(self, job_id: str, row: Mapping[str, Any]) -> None:
        name = self._name(row["jobName"], row["seriesId"])
        attempts = {attempt["attempt"]: attempt for attempt in row["attempts"]}
        self.found.counts["attempts"] += len(attempts)
        for attempt in attempts.values():
            self.found.counts[f"attempts {attempt['state']}"] += 1
        accepted = [attempt for attempt in attempts.values() if attempt["state"] == "finished"]
        if len(accepted) > 1:
            self.found.say("doubled", f"{name}: {len(accepted)} outcomes were accepted")
        if accepted and max(attempts) != accepted[0]["attempt"]:
            self.found.say("doubled", f"{name}: an attempt came after the one that finished")
        if row["state"] == "finished" and not accepted and not row["reusedFrom"]:
            self.found.say("unexplained", f"{name} is finished, and no attempt is")
        if accepted and not any(
            end.how == "done" and end.attempt == accepted[0]["attempt"] for end in self.ends[job_id]
        ):
            self.found.say("unexplained", f"{name} finished, and its function never did")
        for attempt in accepted:
            self._named(name, attempt, self.begins[job_id])
        starts = Counter(line.attempt for line in self.begins[job_id])
        for number, times in starts.items():
            if number not in attempts:
                self.found.say("doubled", f"{name}: attempt {number} ran, which the ledger does not know")
            elif times > 1:
                self.found.say("doubled", f"{name}: attempt {number} was started {times} times")
        for number in starts:
            before = attempts.get(number - 1)
            if before is not None and before["state"] not in ("lost", "failed", "handed_back"):
                self.found.say("doubled", f"{name}: attempt {number} began after one that is {before['state']}")

    def _named(self, name: str, attempt: Mapping[str, Any], begins: Sequence[Line]) -> None:
        """What the function named as its results is what the ledger has."""
        line = next((line for line in begins if line.attempt == attempt["attempt"]), None)
        if line is None:
            return
        unit = line.series or self.study.study_id
        wanted = [("unit", unit), ("attempt", line.attempt), ("files", len(line.files))]
        named = [(each["name"], each["value"]) for each in attempt["results"]]
        if missing := [each for each in wanted if each not in named]:
            self.found.say("lost", f"{name} finished without its named results {missing}: it has {named}")
        elif named != wanted:
            self.found.say("mixed", f"{name} has named results that it never had: {named}")

    # -- none before its dependencies ended

    def _order(self, plan: Mapping[str, Any]) -> None:
        rows = {row["jobId"]: row for row in plan["jobs"]}
        scheduled = [row for row in plan["jobs"] if row["verdict"] == "scheduled"]
        for row in scheduled:
            begins = self.begins[row["jobId"]]
            if not begins:
                continue
            first = min(begins, key=lambda line: line.place)
            earlier = [each for each in scheduled if STAGES.index(each["stage"]) < STAGES.index(row["stage"])]
            for other in [*(rows[job_id] for job_id in row["dependsOn"]), *earlier]:
                name = f"{self._name(row['jobName'], row['seriesId'])} began"
                if other["endedAt"] is None or _seconds(other["endedAt"]) > first.at + _CLOCK:
                    self.found.say("early", f"{name} before {other['jobName']} had ended")
                elif other["state"] == "finished" and not other["reusedFrom"]:
                    last = [end.place for end in self.ends[other["jobId"]] if end.how == "done"]
                    if last and min(last) > first.place:
                        self.found.say("early", f"{name} before the function of {other['jobName']} had ended")

    # -- no result of one study in another

    def _content(self, line: Line) -> None:
        name = self._name(line.job, line.series)
        units = {self.study.study_id, *(series.series_id for series in self.study.series)}
        if strange := [token for token in line.tokens if token.partition("/")[2] not in units]:
            self.found.say("mixed", f"{name} was given what belongs to another: {strange}")
        if others := [given for given in line.inputs if given[1] != self.study.study_id]:
            self.found.say("mixed", f"{name} was given results of another study: {others}")
        for instance, digest in line.files:
            if self._digests().get(instance) != digest:
                self.found.say("mixed", f"{name} saw the file {instance}, which is not its study's or is not whole")

    def _digests(self) -> dict[str, str]:
        return {name: _digest(instance.pixels) for name, instance in self.study.instances.items()}

    def _results(self) -> None:
        assert self.active is not None
        place = self.data / "results" / self.study.study_id
        wanted: set[Path] = set()
        for row in self.active["jobs"]:
            if row["state"] != "finished":
                continue
            key = (row["jobName"], row["seriesId"])
            file = place.joinpath(*filter(None, key)) / "result.json"
            wanted.add(file)
            try:
                result = json.loads(file.read_text())
            except (OSError, ValueError) as error:
                self.found.say("lost", f"{self._name(*key)} finished, and has no results: {type(error).__name__}")
                continue
            said = (result["study"], result["job"], result["series"])
            if said != (self.study.study_id, *key):
                self.found.say("mixed", f"{self._name(*key)} has the results of {said}")
            files = dict(result["files"])
            if files != self._expected_files(row["seriesId"]):
                self.found.say("unexplained", f"{self._name(*key)} saw {len(files)} files, and not those of its study")
            ran = self.rows.get(self._job_id(result))
            if ran is None or result["attempt"] not in [
                attempt["attempt"] for attempt in ran["attempts"] if attempt["state"] == "finished"
            ]:
                self.found.say("unexplained", f"{self._name(*key)} has results of an attempt that did not finish")
        for file in place.rglob("result.json"):
            if file not in wanted and len(self.plans) == 1:
                self.found.say("unexplained", f"results nobody finished: {file.relative_to(self.data)}")

    def _expected_files(self, series_id: str | None) -> dict[str, str]:
        series = [each for each in self.study.series if series_id in (None, each.series_id)]
        return {instance.instance_id: _digest(instance.pixels) for each in series for instance in each.instances}

    # -- words

    def _job_id(self, line: Line | Mapping[str, Any]) -> str:
        found = vars(line) if isinstance(line, Line) else line
        for row in self.rows.values():
            if (row["planId"], row["jobName"], row["seriesId"]) == (found["plan"], found["job"], found["series"]):
                return str(row["jobId"])
        return f"{found['plan']}/{found['job']}/{found['series']}"

    def _name(self, job: str, series: str | None) -> str:
        return f"study {self.study.number} ({self.study.study_id}): {job}" + (f" of series {series}" if series else "")


# -- what is to become of each job


def expected(jobs: Sequence[Job], study: Study, lost: Iterable[Key] = ()) -> dict[Key, str]:
    """How each job of a study ends by its rule; `lost` are those that failed since they were lost too often."""
    world = _World(jobs, study, frozenset(lost))
    return {key: world.end(key) for job in jobs for key in world.keys(job.name)}


class _World:
    """Jobs and series of one study, and what was found out so far."""

    def __init__(self, jobs: Sequence[Job], study: Study, lost: frozenset[Key]) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.series = [series.series_id for series in study.series]
        self.study, self.lost = study, lost
        self._verdicts: dict[Key, str] = {}
        self._ends: dict[Key, str] = {}

    def keys(self, name: str) -> list[Key]:
        return [(name, one) for one in (self.series if self.jobs[name].rule.level == "series" else [None])]

    def seen(self, key: Key, name: str) -> list[Key]:
        """Of the job `name`, those that concern `key`."""
        return [other for other in self.keys(name) if None in (key[1], other[1]) or other[1] == key[1]]

    def needs(self, job: Job) -> list[str]:
        if job.depends_on != ("*",):
            return list(job.depends_on)
        own = STAGES.index(job.stage)
        earlier = [other.name for other in self.jobs.values() if STAGES.index(other.stage) < own]
        same = [o.name for o in self.jobs.values() if o.stage == job.stage and "*" not in o.depends_on]
        return earlier + same

    def verdict(self, key: Key) -> str:
        """Of the plan: declined, errored, skipped or scheduled."""
        if key not in self._verdicts:
            job = self.jobs[key[0]]
            found = self.own(key)
            if found == "scheduled" and self.unmet(key) and job.on_dependency_failure == "skip":
                found = "skipped"
            pre = (each for other in self.jobs.values() if other.stage == "pre" for each in self.keys(other.name))
            if found == "scheduled" and job.stage != "pre":
                found = "skipped" if any(self.verdict(each) in ("errored", "skipped") for each in pre) else found
            self._verdicts[key] = found
        return self._verdicts[key]

    def own(self, key: Key) -> str:
        rule, unit = self.jobs[key[0]].rule, key[1] or self.study.study_id
        if _chance("errors", key[0], unit) < rule.errors:
            return "errored"
        return "declined" if _chance("declines", key[0], unit) < rule.declines else "scheduled"

    def unmet(self, key: Key) -> bool:
        """Whether a dependency that it names is scheduled nowhere."""
        named = [name for name in self.jobs[key[0]].depends_on if name != "*"]
        return any(all(self.verdict(other) != "scheduled" for other in self.seen(key, name)) for name in named)

    def end(self, key: Key) -> str:
        if key not in self._ends:
            self._ends[key] = self.run(key) if self.verdict(key) == "scheduled" else self.verdict(key)
        return self._ends[key]

    def run(self, key: Key) -> str:
        job, unit = self.jobs[key[0]], key[1] or self.study.study_id
        waited = [other for name in self.needs(job) for other in self.seen(key, name)]
        waited = [other for other in waited if self.verdict(other) == "scheduled"]
        if job.on_dependency_failure == "skip" and any(self.end(other) != "finished" for other in waited):
            return "skipped"
        pre = (each for other in self.jobs.values() if other.stage == "pre" for each in self.keys(other.name))
        if job.stage != "pre" and any(self.end(e) != "finished" for e in pre if self.verdict(e) == "scheduled"):
            return "skipped"
        return "failed" if key in self.lost or _chance("fails", key[0], unit) < job.rule.fails else "finished"


def _chance(what: str, job: str, unit: str) -> int:
    """0 to 99: as services.py has it."""
    return int(hashlib.sha256(f"{what}/{job}/{unit}".encode()).hexdigest()[:8], 16) % 100


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _seconds(moment: str | float) -> float:
    return moment if isinstance(moment, float | int) else datetime.fromisoformat(moment).timestamp()

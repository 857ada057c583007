"""What a page says about a study, a job and an attempt: pure functions from the ledger's dicts to what is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dcm_processor.notes import SHOWN

NAMES_SHOWN = 12
"""Jobs of one state and reason that a line names before it only counts."""
RESULTS_SHOWN = 12
"""Named results that stand open on a page; the others are a click away."""

_TONES = {
    "finished": ("good", "✓"),
    "started": ("busy", "▸"), "running": ("busy", "▸"), "planning": ("busy", "▸"),
    "retrying": ("warn", "↻"), "cancelled": ("warn", "⊘"), "lost": ("warn", "↻"), "handed_back": ("warn", "↻"),
    "failed": ("bad", "✕"), "errored": ("bad", "✕"), "unplanned": ("bad", "✕"),
    "queued": ("wait", "○"), "waiting": ("wait", "○"), "received": ("wait", "○"),
}  # fmt: skip
_OFF = ("off", "−")  # noqa: RUF001 - the sign, beside the others

_WHY_JOB = {
    "waiting": "waits for the jobs it depends on",
    "queued": "waits for a free worker",
    "started": "runs",
    "retrying": "will be tried again",
    "failed": "no reason was recorded",
    "declined": "its callback said no",
    "disabled": "disabled in its settings.json",
}
_WHY_STUDY = {
    "known": "in Orthanc before the ledger; processed when asked for",
    "received": "noted; will be planned next",
    "waiting": "waits for an earlier plan's running jobs",
    "planning": "callbacks are being asked",
}


@dataclass(frozen=True)
class Mark:
    """A state as pages show it: always a word, with a colour (`tone`) and a sign that go with it."""

    word: str
    tone: str
    sign: str


@dataclass(frozen=True)
class JobLine:
    """Jobs of a plan that share state and reason; `names` are (job name, how many), `more` jobs are not named."""

    mark: Mark
    names: tuple[tuple[str, int], ...]
    more: int
    reason: str


@dataclass(frozen=True)
class Moment:
    """A point in time: `text` is short ("12 s ago"), `exact` in the server's time zone, `machine` RFC 3339."""

    text: str
    exact: str
    machine: str


@dataclass(frozen=True)
class ShownResult:
    """A named result: `text` is what is read, `exact` the value as it is; `kind` is number, text or bool."""

    name: str
    text: str
    exact: str
    unit: str
    kind: str


@dataclass(frozen=True)
class ShownResults:
    """An attempt's named results: the first ones, and the rest; `cut`: there may be more than the page was told."""

    first: tuple[ShownResult, ...]
    rest: tuple[ShownResult, ...]
    cut: bool


@dataclass(frozen=True)
class StudyRow:
    """One row of the table of studies."""

    study_id: str
    short_id: str
    date: str
    modalities: str
    description: str
    mark: Mark
    reason: str
    lines: tuple[JobLine, ...]
    changed: Moment | None


def mark(state: str) -> Mark:
    """How a state of a study, job or attempt, or a verdict, is shown."""
    return Mark(state.replace("_", " "), *_TONES.get(state, _OFF))


def study_row(study: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], now: datetime) -> StudyRow:
    """A study of the ledger and the jobs of its active plan (summarised: jobName, verdict, state, reason, count)."""
    return StudyRow(
        study_id=study["studyId"],
        short_id=short(study["studyId"]),
        date=dicom_date(study.get("studyDate")),
        modalities=" ".join(study.get("modalities") or []),
        description=study.get("description") or "",
        mark=mark(study["state"]),
        reason=study_reason(study),
        lines=job_lines(jobs),
        changed=moment(study.get("changedAt"), now),
    )


def study_reason(study: Mapping[str, Any]) -> str:
    """Why the study stands where it stands, where there is something to say."""
    return str(study.get("reason") or _WHY_STUDY.get(study["state"], ""))


def job_lines(jobs: Sequence[Mapping[str, Any]]) -> tuple[JobLine, ...]:
    """Jobs by state and reason: those that were scheduled first, each group where its first job stands in the plan."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for job in sorted(jobs, key=lambda job: job["verdict"] != "scheduled"):
        names = groups.setdefault((job_state(job), job_reason(job)), {})
        names[job["jobName"]] = names.get(job["jobName"], 0) + job.get("count", 1)
    return tuple(
        JobLine(
            mark=mark(state),
            names=tuple(names.items())[:NAMES_SHOWN],
            more=sum(tuple(names.values())[NAMES_SHOWN:]),
            reason=reason,
        )
        for (state, reason), names in groups.items()
    )


def job_state(job: Mapping[str, Any]) -> str:
    """The state of a scheduled job, the verdict on another."""
    return str(job["state"] or job["verdict"])


def job_reason(job: Mapping[str, Any]) -> str:
    """Why the job stands where it stands; "" only where it simply finished."""
    state = job_state(job)
    return str(job.get("reason") or ("" if state == "finished" else _WHY_JOB.get(state, "no reason was recorded")))


def event_result(event: Mapping[str, Any]) -> str:
    """What came of an event; for a request that changed nothing this is the only place to say so."""
    if event["handledAt"]:
        return str(event["result"])
    return f"{event['result']}; to be tried again" if event["result"] else "not dealt with yet"


def short(identifier: str | None, digits: int = 8) -> str:
    """The beginning of an identifier, enough to tell a few apart."""
    return (identifier or "")[:digits]


def dicom_date(text: str | None) -> str:
    """`20240131` (VR DA, PS3.5 6.2) as 2024-01-31; anything else as it is."""
    if text and len(text) == 8 and text.isascii() and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text or ""


def moment(timestamp: str | None, now: datetime) -> Moment | None:
    """An RFC 3339 time of the ledger, told from `now`."""
    if timestamp is None:
        return None
    then = datetime.fromisoformat(timestamp)
    seconds = (now - then).total_seconds()
    text = "just now" if 0 <= seconds < 1 else f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"
    return Moment(text, then.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"), timestamp)


def duration(begin: str | None, end: str | None) -> str:
    """How long it took, or "" where it has not begun or not ended."""
    if begin is None or end is None:
        return ""
    return span((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def span(seconds: float) -> str:
    """Seconds as a person says them: 0.3 s, 45 s, 3 min, 5 h, 2 d."""
    seconds = max(seconds, 0)
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds / size)} {unit}"
    return f"{timedelta(seconds=seconds).days} d"


def phases(attempt: Mapping[str, Any]) -> str:
    """What an attempt spent its time on: `environment 1.2 s, fetch 0.3 s, run 5 s`."""
    spent = ((name, duration(*moments)) for name, moments in (attempt.get("phases") or {}).items() if len(moments) == 2)
    return ", ".join(f"{name} {text}" for name, text in spent if text)


def named_results(attempt: Mapping[str, Any]) -> ShownResults:
    """What an attempt's job named, in its order."""
    shown = tuple(_shown(each) for each in attempt.get("results") or [])
    return ShownResults(shown[:RESULTS_SHOWN], shown[RESULTS_SHOWN:], len(shown) >= SHOWN)


def _shown(result: Mapping[str, Any]) -> ShownResult:
    value, kind = result["value"], "number"
    if isinstance(value, bool):
        text, kind = ("yes" if value else "no"), "bool"
    elif isinstance(value, str):
        text, kind = value or "−", "text"  # noqa: RUF001 - the sign of what is empty, as elsewhere on the pages
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)  # a narrow space
    return ShownResult(result["name"], text, str(value), result["unit"] or "", kind)


def percent(fraction: float) -> str:
    """How far: whole per cent, 100 only at the end."""
    return f"{int(fraction * 100)} %"

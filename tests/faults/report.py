"""The table of a run: for people (rich), and as Markdown for docs/reliability.md."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.faults.campaign import Result

Rows = list[tuple[str, str, str]]


def rows(result: Result) -> Rows:
    """Faults by kind and by what the victim was doing: fault, doing, how often."""
    counted = Counter(
        (f"{strike.fault.kind} {strike.fault.target}" if strike.counts else _named(strike.fault.kind), strike.doing)
        for strike in result.strikes
    )
    return [(fault, doing or "-", str(number)) for (fault, doing), number in sorted(counted.items())]


def repairs(result: Result) -> Rows:
    """What the platform found and closed by itself: the metric, its kind, its count."""
    return [("dcm_processor_repairs_total", kind, str(number)) for kind, number in result.repairs.items()]


def sums(result: Result) -> list[tuple[str, str]]:
    """What the run comes to."""
    counts, judgement = result.judgement.counts, result.judgement
    hit, struck = result.hits
    share = f"{100 * hit / struck:.0f} %" if struck else "-"
    states = ", ".join(
        f"{name.removeprefix('attempts ')} {number}"
        for name, number in sorted(counts.items())
        if name.startswith("attempts ")
    )
    return [
        ("studies", str(counts["studies"])),
        ("faults", str(len(result.strikes))),
        ("signals that met a process in the middle of something", f"{hit} of {struck} ({share})"),
        ("instances sent again", str(result.sent_again)),
        ("jobs", f"{counts['jobs']} ({counts['given up']} given up, as their workers were lost too often)"),
        ("attempts", f"{counts['attempts']} ({states})"),
        ("callbacks", str(result.callbacks)),
        ("lost", str(judgement.number("lost"))),
        ("doubled", str(judgement.number("doubled"))),
        ("before a dependency", str(judgement.number("early"))),
        ("of another study", str(judgement.number("mixed"))),
        ("unexplained", str(judgement.number("unexplained"))),
        ("left behind", str(judgement.number("left"))),
        ("time", f"{result.seconds / 60:.0f} min" if result.seconds > 120 else f"{result.seconds:.0f} s"),
    ]


def show(result: Result, console: Console) -> None:
    """Print it."""
    table = Table("fault", "the victim was", "times")
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    table = Table("metric", "kind", "count")
    for row in repairs(result):
        table.add_row(*row)
    console.print(table)
    table = Table("seed", str(result.seed))
    for pair in sums(result):
        table.add_row(*pair)
    console.print(table)
    for finding in result.findings:
        console.print(str(finding), style="red", highlight=False)


def markdown(result: Result, command: str) -> str:
    """The same as a part of a document."""
    lines = [f"    {command}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in sums(result)]
    lines += ["", "| fault | the victim was | times |", "|---|---|---:|"]
    lines += [f"| {fault} | {doing} | {number} |" for fault, doing, number in rows(result)]
    lines += ["", "| metric | kind | count |", "|---|---|---:|"]
    lines += [f"| `{metric}` | `{kind}` | {number} |" for metric, kind, number in repairs(result)]
    return "\n".join(lines) + "\n"


def _named(kind: str) -> str:
    names = {
        "cut": "network cut",
        "unplug": "workers without any network until they are lost",
        "empty": "Redis emptied",
        "forget": "Redis restarted without its data",
        "fill": "DATA's disk full",
        "down": "everything stopped and started",
    }
    return names.get(kind, kind)

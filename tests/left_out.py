"""A pytest plugin that ends a run with what was left out, and why; test.sh loads it."""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    terminalreporter.section("left out, and why")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} test{'s' * (count != 1)}: {reason}")
    if not reasons:
        terminalreporter.write_line("nothing")

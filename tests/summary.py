"""The end of a test run: how long each room took, and why tests were skipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest

# What differs from test to test in one and the same reason: numbers and paths.
VARYING = re.compile(r"/\S+|\d+(\.\d+)*")


def room_of(node: str) -> str:
    """The folder below ``tests`` that a test lies in; ``tests`` for those directly in it."""
    parts = node.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 else "tests"


def skip_reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, without the place where pytest saw it."""
    found = report.longrepr
    text = str(found[2]) if isinstance(found, tuple) else str(found)
    return text.removeprefix("Skipped: ")


def count_reasons(reports: Iterable[pytest.TestReport]) -> list[tuple[int, str]]:
    """Reasons with their counts, most frequent first; equal but for numbers and paths are one."""
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for report in reports:
        reason = skip_reason(report)
        kind = VARYING.sub("*", reason)
        counts[kind] += 1
        shown.setdefault(kind, reason)
    return [(count, shown[kind]) for kind, count in counts.most_common()]


def room_times(reports: Iterable[pytest.TestReport]) -> list[tuple[float, int, str]]:
    """(seconds, tests, room), slowest first; setup and teardown belong to the test."""
    seconds: Counter[str] = Counter()
    tests: dict[str, set[str]] = {}
    for report in reports:
        room = room_of(report.nodeid)
        seconds[room] += report.duration
        tests.setdefault(room, set()).add(report.nodeid)
    return sorted(((seconds[room], len(tests[room]), room) for room in tests), reverse=True)


def write_summary(terminal: pytest.TerminalReporter) -> None:
    """Write both tables, where there is more than one line to say."""
    reports = [
        report
        for kind in ("passed", "failed", "error", "skipped", "xfailed", "")
        for report in terminal.stats.get(kind, [])
        if isinstance(report, pytest.TestReport)
    ]
    times = room_times(reports)
    if len(times) > 1:
        terminal.section("time of each room", sep="-")
        for seconds, count, room in times:
            terminal.write_line(f"{seconds:8.1f} s  {count:5d} tests  {room}")
        terminal.write_line(
            f"{sum(row[0] for row in times):8.1f} s  {sum(r[1] for r in times):5d} tests"
        )
    skipped = [report for report in terminal.stats.get("skipped", []) if report.skipped]
    if skipped:
        terminal.section("skipped tests by reason", sep="-")
        for count, reason in count_reasons(skipped):
            terminal.write_line(f"{count:5d}  {reason}")

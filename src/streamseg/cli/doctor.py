"""``streamseg doctor``: whether this machine can do something, and how to fix what prevents it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from streamseg.cli.dataclass_options import grouped
from streamseg.cli.results import json_option, write_result
from streamseg.cli.subcommand import subcommand
from streamseg.files import STDOUT
from streamseg.readiness import PURPOSES, Finding, Readiness, describe_purpose, judge

MARKS = {"yes": "yes", "no": " no", "optional": "  -"}


@subcommand("doctor", examples=("doctor", "doctor --for tensorrt --json -"))
@grouped(
    "--for",
    "purpose",
    type=click.Choice(list(PURPOSES)),
    show_default="everything",
    help="Look only at what this use needs.",
)
@json_option
def command(purpose: str | None, json_path: Path | None) -> int:
    """Check this machine and suggest fixes.

    A line begins with 'yes', with 'no' where a use cannot do without it, or with '-' where nothing
    that was asked for depends on it. Exits 1 if the use is not ready; without --for, if no backend
    can run bundles.
    """
    from streamseg.doctor import examine

    asked = list(PURPOSES) if purpose is None else [purpose]
    findings = examine(None if purpose is None else PURPOSES[purpose].subjects)
    readiness = judge(findings, asked)
    write_result(describe_json(findings, readiness), json_path)
    if json_path != STDOUT:
        for line in describe(findings, readiness):
            click.echo(line)
    return 0 if readiness.ready else 1


def describe(findings: Sequence[Finding], readiness: Readiness) -> Iterator[str]:
    """The findings with their fixes, then one line for each purpose."""
    for entry in findings:
        yield f"{MARKS[readiness.marks[entry.subject]]}  {entry.subject}: {entry.found}"
        if entry.fix and not entry.ok:
            yield f"       {entry.fix}"
    for name in readiness.asked:
        yield describe_purpose(name, readiness)


def describe_json(findings: Sequence[Finding], readiness: Readiness) -> dict[str, Any]:
    """The same for programs."""
    return {
        "ready": readiness.ready,
        "purposes": {
            name: {
                "ready": readiness.is_ready(name),
                "missing": [list(group) for group in readiness.missing[name]],
                "notes": list(readiness.weaker.get(name, ())),
            }
            for name in readiness.asked
        },
        "findings": [
            {**asdict(entry), "mark": readiness.marks[entry.subject]} for entry in findings
        ],
    }

"""What the doctor says is consistent, whatever a machine has: states are generated."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.cli.doctor import describe, describe_json
from streamseg.readiness import BACKENDS, PURPOSES, Finding, judge

SUBJECTS = sorted({subject for purpose in PURPOSES.values() for subject in purpose.subjects})
STATES = st.fixed_dictionaries({subject: st.booleans() for subject in SUBJECTS})
ASKED = st.one_of(st.just(list(PURPOSES)), st.sampled_from(list(PURPOSES)).map(lambda name: [name]))


def find(state: dict[str, bool], asked: list[str]) -> list[Finding]:
    looked_at = {subject for name in asked for subject in PURPOSES[name].subjects}
    return [
        Finding(subject, ok, "there" if ok else "missing", "" if ok else f"install {subject}")
        for subject, ok in state.items()
        if subject in looked_at
    ]


def read_lines(lines: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(subject -> mark, purpose -> verdict) of a printed report."""
    marks, verdicts = {}, {}
    for line in lines:
        if match := re.match(r"(yes| no|  -)  (.+?): (there|missing)$", line):
            marks[match[2]] = match[1].strip()
        elif match := re.match(r"(\w+) \(.*?\): (.+)$", line):
            verdicts[match[1]] = match[2]
    return marks, verdicts


@given(state=STATES, asked=ASKED)
def test_report_never_contradicts_itself(state: dict[str, bool], asked: list[str]) -> None:
    findings = find(state, asked)
    readiness = judge(findings, asked)
    marks, verdicts = read_lines(list(describe(findings, readiness)))
    assert set(verdicts) == set(asked)
    assert marks.keys() == {entry.subject for entry in findings}
    named = set()
    for name, verdict in verdicts.items():
        needs = PURPOSES[name].needs
        fulfilled = all(any(marks[subject] == "yes" for subject in group) for group in needs)
        assert verdict.startswith("ready") is fulfilled
        if not fulfilled:
            groups = verdict.removeprefix("not ready, needs ").split(", ")
            named |= {subject for group in groups for subject in group.split(" or ")}
    # "no" stands exactly at what some verdict names.
    assert {subject for subject, mark in marks.items() if mark == "no"} == named
    assert {subject for subject, mark in marks.items() if mark == "yes"} == {
        subject for subject in marks if state[subject]
    }


@given(state=STATES, asked=ASKED)
def test_exit_code_and_json_agree_with_the_lines(state: dict[str, bool], asked: list[str]) -> None:
    findings = find(state, asked)
    readiness = judge(findings, asked)
    marks, verdicts = read_lines(list(describe(findings, readiness)))
    ready = {name for name, verdict in verdicts.items() if verdict.startswith("ready")}
    content = describe_json(findings, readiness)
    assert {name for name, entry in content["purposes"].items() if entry["ready"]} == ready
    expected = bool(ready) if len(asked) == 1 else bool(ready & set(BACKENDS))
    assert readiness.ready is content["ready"] is expected
    shown = {
        entry["subject"]: entry["mark"].replace("optional", "-") for entry in content["findings"]
    }
    assert shown == marks


@given(state=STATES, name=st.sampled_from(list(PURPOSES)))
def test_filter_changes_nothing_but_what_is_shown(state: dict[str, bool], name: str) -> None:
    alone = judge(find(state, [name]), [name])
    everything = judge(find(state, list(PURPOSES)), list(PURPOSES))
    assert alone.missing[name] == everything.missing[name]
    assert alone.weaker.get(name) == everything.weaker.get(name)


@given(state=STATES, subject=st.sampled_from(SUBJECTS))
def test_what_is_added_never_makes_a_use_unready(state: dict[str, bool], subject: str) -> None:
    before = judge(find(state, list(PURPOSES)), list(PURPOSES))
    after = judge(find({**state, subject: True}, list(PURPOSES)), list(PURPOSES))
    for name in PURPOSES:
        assert not before.is_ready(name) or after.is_ready(name)


@pytest.mark.parametrize(
    ("lacking", "verdict"),
    [
        ("operator library", "ready; without operator library, a slower lowering"),
        ("ONNX Runtime", "not ready, needs ONNX Runtime"),
    ],
)
def test_missing_library_is_not_a_no_where_the_backend_is_ready(lacking: str, verdict: str) -> None:
    state = {subject: subject != lacking for subject in SUBJECTS}
    findings = find(state, ["cpu"])
    lines = list(describe(findings, judge(findings, ["cpu"])))
    assert any(verdict in line for line in lines)
    assert f"{' no' if 'not' in verdict else '  -'}  {lacking}: missing" in lines

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamseg.errors import TrainingError
from streamseg.training.history import read_history
from streamseg.training.pace import Pace
from tests.training.small import CONFIG, assert_same_weights, run


def walk(until, warmup, seconds):
    """Lengths that a run with these step times chooses, by step."""
    clock = iter([sum(seconds[: i + 1]) for i in range(len(seconds))])
    pace = Pace(until, lambda: next(clock))
    found = {step: pace.choose_steps(step, warmup) for step in range(1, len(seconds) + 1)}
    return {step: steps for step, steps in found.items() if steps is not None}


def test_steps_follow_from_the_second_half_of_the_warm_up():
    # Slow steps first; then two of 0.5 s, after which 10 s are left.
    assert walk(until=31.0, warmup=4, seconds=[10, 10, 0.5, 0.5]) == {4: 24}


def test_no_time_left_leaves_one_step():
    assert walk(until=1.0, warmup=2, seconds=[5, 5]) == {2: 3}


def test_without_a_limit_nothing_is_measured():
    assert walk(until=None, warmup=2, seconds=[1, 1, 1]) == {}


def test_resumed_run_keeps_its_steps():
    pace = Pace(10.0, lambda: 1.0)
    assert [pace.choose_steps(step, 4) for step in (5, 6)] == [None, None]


def test_run_that_ends_by_the_clock_equals_one_of_as_many_steps(tmp_path):
    config = replace(CONFIG, steps=1000, warmup=4)
    report = run(tmp_path / "clock", config=config, until=1.0)  # long past: one step more
    assert report.step == 5
    assert json.loads((tmp_path / "clock" / "config.json").read_text())["steps"] == 5
    assert read_history(tmp_path / "clock" / "log.jsonl")[-1]["step"] == 5
    again = run(tmp_path / "steps", config=replace(config, steps=5))
    assert_same_weights(report.weights, again.weights)


def test_limit_needs_a_warm_up(tmp_path):
    with pytest.raises(TrainingError, match="--until measures the warm-up"):
        run(tmp_path / "run", config=replace(CONFIG, warmup=1), until=1.0)

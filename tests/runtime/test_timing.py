"""Times of steps, against a backend that takes known times."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import StreamsegError
from streamseg.runtime.sources import open_source
from streamseg.runtime.stream import Stream, open_stream
from streamseg.runtime.timing import StepStatistics, TimingOptions, hold_frames, time_stream
from tests.runtime.clips import write_clip
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle

SLEEPS = {"warm": 0.02, "key": 0.008, "step": 0.002}
FRAMES = [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (10, 200, 90)]


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The toy network, each of whose graphs takes a known time longer."""
    opened = open_stream(write_toy_bundle(tmp_path / "toy"), backend="onnxruntime")
    lane = opened._stepper._lane
    start = lane.start
    opened.ran = []  # type: ignore[attr-defined]

    def slow(plan) -> None:  # type: ignore[no-untyped-def]
        opened.ran.append(plan.graph)  # type: ignore[attr-defined]
        time.sleep(SLEEPS[plan.graph])
        start(plan)

    monkeypatch.setattr(lane, "start", slow)
    return opened


def test_each_graph_has_its_own_times(stream: Stream) -> None:
    timing = time_stream(stream, FRAMES, seconds=1e-3, limit=16)
    assert list(timing.graphs) == ["key", "step"]  # the start of the schedule is not timed
    for name, entry in timing.graphs.items():
        assert SLEEPS[name] * 1e3 <= entry.median < SLEEPS[name] * 1e3 + 5
    assert timing.graphs["step"].frames == 3 * timing.graphs["key"].frames == 12
    assert timing.steps.frames == 16
    mean = sum(entry.mean * entry.frames for entry in timing.graphs.values()) / 16
    assert timing.steps.mean == pytest.approx(mean)
    assert timing.fps == pytest.approx(1e3 / timing.steps.mean)


def test_state_is_kept_and_whole_periods_are_timed(stream: Stream) -> None:
    timing = time_stream(stream, FRAMES, seconds=1e-3, limit=5)
    assert timing.steps.frames == 8
    assert stream.steps == timing.warm_up + 8
    ran: list[str] = stream.ran[1:]  # type: ignore[attr-defined]  # the first proves that it runs
    assert Counter(ran[: timing.warm_up])["warm"] == 2
    assert "warm" not in ran[timing.warm_up :]


def test_time_bounds_the_measurement_from_below(stream: Stream) -> None:
    begin = time.perf_counter()
    timing = time_stream(stream, FRAMES, seconds=0.1)
    assert time.perf_counter() - begin > 0.1
    assert timing.steps.frames > 10


def test_statistics_are_those_of_numpy() -> None:
    seconds = [0.001, 0.003, 0.002, 0.010]
    found = StepStatistics.of(seconds)
    assert (found.frames, found.median, found.mean) == (4, pytest.approx(2.5), pytest.approx(4.0))
    assert found.p95 == pytest.approx(np.quantile(seconds, 0.95) * 1e3)


def test_few_frames_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", frames=110, size=(16, 32)))
    with open_source(clip) as source:
        assert len(hold_frames(source)) == 100
    monkeypatch.setattr("streamseg.runtime.timing.MOST_BYTES", 5 * 16 * 32 * 3)
    with open_source(clip) as source:
        assert len(hold_frames(source)) == 5


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_seconds_are_checked(seconds: float) -> None:
    with pytest.raises(StreamsegError, match="seconds is"):
        TimingOptions(seconds=seconds)

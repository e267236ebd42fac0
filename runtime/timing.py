"""Steps of one stream timed with their state, by graph of the schedule."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamseg.errors import StateMismatch, StreamsegError
from streamseg.option_fields import check_options, option
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.sources import Source
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.resize import Image

LEAST_STEPS = 10
MOST_FRAMES = 100  # of a source, held decoded
MOST_BYTES = 1 << 28  # of decoded frames


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """How long steps are timed.

    Attributes:
        seconds: for how long at least, after the warm-up.

    Raises:
        StreamsegError: a value is out of its range.
    """

    seconds: float = option("Seconds to measure for, after the warm-up.", default=10.0, above=0)

    def __post_init__(self) -> None:
        check_options(self, StreamsegError)


@dataclass(frozen=True)
class StepStatistics:
    """Times of some steps, in milliseconds.

    Attributes:
        frames: how many.
        median, p95, mean: of the whole step, from the frame to its labels at the frame's size.
    """

    frames: int
    median: float
    p95: float
    mean: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> StepStatistics:
        """Statistics of one or more times in seconds."""
        values = np.asarray(seconds) * 1e3
        median, high = np.percentile(values, (50, 95))
        return cls(len(values), float(median), float(high), float(values.mean()))


@dataclass(frozen=True)
class StreamTiming:
    """Times of the steady schedule.

    Attributes:
        steps: of all steps.
        graphs: graph -> its steps, in the order of the bundle.
        preprocess: median milliseconds that fitting frames and labels took of a step.
        fps: frames a second with as many steps under way as the backend overlaps.
        warm_up: steps before the measurement.
    """

    steps: StepStatistics
    graphs: dict[str, StepStatistics]
    preprocess: float
    fps: float
    warm_up: int


def hold_frames(source: Source) -> list[Image]:
    """The first frames of a source, decoded: 100, or as many as fit in 256 MiB.

    Raises:
        SourceError: the source fails.
    """
    held: list[Image] = []
    for frame in source:
        held.append(frame.image)
        if len(held) == MOST_FRAMES or (len(held) + 1) * frame.image.nbytes > MOST_BYTES:
            break
    return held


def time_stream(
    stream: Stream, frames: Sequence[Image], *, seconds: float, limit: int | None = None
) -> StreamTiming:
    """Time the steps of a stream, whose state is kept from the first frame to the last.

    Whole periods of the schedule are timed after its start, so that key frames have their share.
    States of kind ``given`` that have no values are zero: times do not depend on them.

    Args:
        stream: is reset first.
        frames: (height, width, 3) uint8 RGB, played in a loop.
        seconds: for how long at least.
        limit: time this many steps instead, rounded up to whole periods.
    """
    period = max(row.every for row in stream.manifest.schedule)
    warm_up = max(row.start for row in stream.manifest.schedule) + period
    _prepare(stream, frames[0])
    for number in range(warm_up):
        stream.step(frames[number % len(frames)])
    spent: dict[str, list[float]] = {}
    preprocess: list[float] = []
    steps, begin = 0, time.perf_counter()

    def more() -> bool:
        if steps % period:
            return True
        if limit is not None:
            return steps < limit
        return steps < LEAST_STEPS or time.perf_counter() - begin < seconds

    while more():
        started = time.perf_counter()
        result = stream.step(frames[(warm_up + steps) % len(frames)])
        took = time.perf_counter() - started
        spent.setdefault(plan_step(stream.manifest, result.step).graph, []).append(took)
        preprocess.append(result.timings["preprocess"])
        steps += 1
    times = [value for values in spent.values() for value in values]
    return StreamTiming(
        steps=StepStatistics.of(times),
        graphs={
            name: StepStatistics.of(spent[name]) for name in stream.manifest.graphs if name in spent
        },
        preprocess=float(np.median(preprocess)) * 1e3,
        fps=steps / sum(times) if stream.depth == 1 else _throughput(stream, frames, steps),
        warm_up=warm_up,
    )


def _prepare(stream: Stream, frame: Image) -> None:
    """Reset the stream; where a given state has no values, set zeros."""
    stream.reset()
    try:
        stream.step(frame)
    except StateMismatch:
        for spec in stream.manifest.state:
            if spec.kind == "given":
                stream.give(spec.name, np.zeros(spec.shape, spec.dtype))
    stream.reset()


def _throughput(stream: Stream, frames: Sequence[Image], steps: int) -> float:
    """Frames a second where the next frame is given before the last has its labels."""
    begin = time.perf_counter()
    for _ in stream.steps_through(frames[number % len(frames)] for number in range(steps)):
        pass
    return steps / (time.perf_counter() - begin)

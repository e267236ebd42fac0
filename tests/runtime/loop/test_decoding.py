from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.loop.decoding import QUEUE_LENGTH, Decoder
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.session.events import Event
from streamseg.runtime.sources import Frame

IMAGE = np.zeros((4, 6, 3), np.uint8)


@dataclass
class CountedSource:
    """Frames as fast as they are taken; ``error`` in the end."""

    count: int
    live: bool = False
    seconds: float = 0.0
    error: Exception | None = None
    given: int = 0
    halted: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            if self.halted.wait(self.seconds):
                return
            self.given += 1
            yield Frame(IMAGE, index, index / 25)
        if self.error:
            raise self.error

    def stop(self) -> None:
        self.halted.set()


def start(source: CountedSource, **options: object) -> Decoder:
    decoder = Decoder(source, StageTimes(), **options)  # type: ignore[arg-type]
    decoder.start()
    return decoder


def until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("live", [False, True])
def test_waiting_consumer_gets_every_frame(live: bool) -> None:
    decoder = start(CountedSource(30, live=live), when_behind="wait")
    indices = []
    while (frame := decoder.wait()) is not None:
        time.sleep(0.001)
        indices.append(frame.index)
    assert (indices, decoder.dropped, decoder.ended) == (list(range(30)), 0, True)


def test_waiting_source_is_read_ahead_within_a_limit() -> None:
    source = CountedSource(30)
    decoder = start(source)
    until(lambda: source.given > QUEUE_LENGTH)
    time.sleep(0.1)
    assert source.given == QUEUE_LENGTH + 1
    decoder.halt()
    assert not decoder.is_alive()


def test_slow_consumer_gets_the_newest_frame_and_skipped_ones_are_counted() -> None:
    decoder = start(CountedSource(30, live=True))
    decoder.join(10)
    frame = decoder.take()
    assert frame is not None
    assert (frame.index, decoder.dropped) == (29, 29)
    assert (decoder.take(), decoder.wait(), decoder.ended) == (None, None, True)


def test_every_frame_is_given_or_counted() -> None:
    decoder = start(CountedSource(200, seconds=0.001), when_behind="drop")
    indices = []
    while (frame := decoder.wait()) is not None:
        time.sleep(0.004)
        indices.append(frame.index)
    assert indices == sorted(set(indices))
    assert decoder.dropped > 0
    assert len(indices) + decoder.dropped == 200


def test_error_comes_after_the_frames_before_it() -> None:
    decoder = start(CountedSource(2, error=SourceError("cut")))
    assert [decoder.wait().index for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
    with pytest.raises(SourceError, match="cut"):
        decoder.wait()
    assert decoder.ended


def test_every_frame_and_the_end_are_announced() -> None:
    seen: list[int] = []
    decoder = start(CountedSource(3), notify=lambda: seen.append(1))
    decoder.join(10)
    assert len(seen) == 4


def test_decoder_that_never_ran_can_be_halted() -> None:
    Decoder(CountedSource(1), StageTimes()).halt()  # type: ignore[arg-type]


def test_late_labels_are_counted_and_reported_from_time_to_time() -> None:
    events: list[Event] = []
    watch = LatencyWatch(0.1, "cam", events.append)
    now = time.monotonic()
    assert watch.check(Frame(IMAGE, 0, 0.0, now)) < 0.1
    for index in range(1, 5):
        assert watch.check(Frame(IMAGE, index, index / 25, now - 1)) >= 1
    assert watch.late == 4
    assert [(event.kind, event.stream, event.frame) for event in events] == [("late", "cam", 1)]
    assert events[0].reason.startswith("labels after 10")
    assert events[0].reason.endswith("limit 100 ms")


def test_report_of_late_labels_counts_those_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    watch = LatencyWatch(0.1, "cam", events.append)
    clock = [1000.0]
    monkeypatch.setattr("streamseg.runtime.loop.latency.time.monotonic", lambda: clock[0])
    for index in range(8):
        watch.check(Frame(IMAGE, index, 0.0, clock[0] - 0.2))
        clock[0] += 1
    assert [event.frame for event in events] == [0, 5]
    assert events[1].reason.endswith("; 4 more since the last report")


def test_without_a_limit_nothing_is_late() -> None:
    watch = LatencyWatch(None, "cam")
    assert watch.check(Frame(IMAGE, 0, 0.0, time.monotonic() - 5)) >= 5
    assert watch.late == 0


@pytest.mark.parametrize(("when_behind", "prepared"), [("wait", 30), ("drop", 0)])
def test_frames_are_prepared_beside_the_step_of_sources_that_wait(
    when_behind: str, prepared: int
) -> None:
    threads = []

    def prepare(frame: Frame) -> Frame:
        threads.append(threading.current_thread())
        return frame

    decoder = start(CountedSource(30), when_behind=when_behind, prepare=prepare)
    while decoder.wait() is not None:
        pass
    assert threads == [decoder] * prepared


def test_frame_that_cannot_be_prepared_ends_the_source_after_those_before_it() -> None:
    def prepare(frame: Frame) -> Frame:
        if frame.index == 3:
            raise SourceError("frame 3 is damaged")
        return frame

    decoder = start(CountedSource(9), prepare=prepare)
    assert [decoder.wait().index for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    with pytest.raises(SourceError, match="frame 3 is damaged"):
        decoder.wait()

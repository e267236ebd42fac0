"""A gap is time that the source is missing, never time that we were slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamseg
from streamseg.errors import SourceError
from streamseg.runtime.loop.decoding import Decoder
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from streamseg.runtime.sources.options import SourceOptions
from streamseg.runtime.sources.reader import Picture
from streamseg.runtime.sources.streaming import StreamingSource
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle

IMAGE = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
FPS = 10.0


class Clock:
    """A machine's clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CameraReader:
    """A camera that makes a picture every tenth of a second, but for its outages.

    Pictures wait in a buffer of ``depth`` for a reader that is late; what is older is lost, as in
    a driver. ``timed`` cameras stamp their pictures.
    """

    live, corrupt, frame_count, detail, fps = True, 0, None, "test", FPS

    def __init__(
        self, clock: Clock, *, outages: tuple[tuple[float, float], ...] = (), timed: bool = True
    ) -> None:
        self._clock, self._outages, self._timed = clock, outages, timed
        self._start = clock.now
        self._next = 0

    def _made_at(self, number: int) -> float:
        at = number / FPS
        for begin, length in self._outages:
            if at >= begin:
                at += length
        return at

    def read(self) -> Picture | None:
        if self._next >= 200:
            return None
        made = self._start + self._made_at(self._next)
        self._next += 1
        self._clock.now = max(self._clock.now, made)  # waits for the picture
        seconds = made - self._start if self._timed else None
        return Picture(lambda: IMAGE, (HEIGHT, WIDTH), seconds, self._clock.now)

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("gaps") / "toy")


Step = Callable[[int], float]


def play(
    bundle: Path,
    reader: CameraReader,
    clock: Clock,
    step_seconds: Step,
    monkeypatch: pytest.MonkeyPatch,
    frames: int = 60,
) -> list[Event]:
    """Reset events of a camera whose consumer takes ``step_seconds`` for each frame."""
    monkeypatch.setattr("streamseg.runtime.sources.streaming.time.monotonic", clock)
    events: list[Event] = []
    options = SourceOptions(reconnect=0)
    source = StreamingSource(lambda: reader, "camera", options, on_event=events.append)
    with streamseg.open(bundle, native=False) as stream, source:
        session = Session(stream, on_event=events.append)
        taken: Iterator = iter(source)
        for i in range(frames):
            session.process(next(taken))
            clock.now += step_seconds(i)
    return [event for event in events if event.kind == "reset"]


@pytest.mark.parametrize("timed", [True, False])
def test_slow_first_step_is_not_a_gap(
    bundle: Path, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    reader = CameraReader(clock, timed=timed)
    assert play(bundle, reader, clock, lambda i: 8.0 if i == 0 else 0.02, monkeypatch) == []


@pytest.mark.parametrize("timed", [True, False])
def test_outage_is_a_gap(bundle: Path, timed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    reader = CameraReader(clock, outages=((2.0, 4.0),), timed=timed)
    (event,) = play(bundle, reader, clock, lambda _: 0.02, monkeypatch)
    assert (event.cause, event.frame) == ("gap", 20)
    assert "s without a frame, more than 1 s" in event.reason


@given(st.lists(st.floats(0, 3), min_size=30, max_size=30), st.booleans())
def test_no_pattern_of_slow_steps_is_a_gap(steps: list[float], timed: bool) -> None:
    clock = Clock()
    reader = CameraReader(clock, timed=timed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamseg.runtime.sources.streaming.time.monotonic", clock)
        source = StreamingSource(lambda: reader, "camera", SourceOptions(reconnect=0))
        frames = iter(source)
        for seconds in steps:
            assert (next(frames).silence or 0.0) <= 1 / FPS + 1e-6
            clock.now += seconds


class ThreadedSource:
    """Frames that a thread offers as fast as it can; ``silence`` as a camera's source gives it."""

    live, name, detail, fps, frame_count, size = True, "camera", "", FPS, None, (HEIGHT, WIDTH)
    corrupt = reconnects = passed_over = 0
    on_event = None

    def __init__(self, silences: list[float], taken: threading.Semaphore) -> None:
        self._silences, self._taken = silences, taken

    def __iter__(self) -> Iterator[Frame]:
        now = 0.0
        for index, silence in enumerate(self._silences):
            now += silence
            yield Frame(IMAGE, index, now, silence=silence)
        self._taken.acquire(timeout=20)

    def stop(self) -> None:
        self._taken.release()


@pytest.mark.parametrize(
    ("silences", "longest"), [([0.1] * 40, 0.1), ([0.1] * 9 + [5.0, 0.1], 5.0)]
)
def test_silence_of_dropped_frames_is_passed_on(silences: list[float], longest: float) -> None:
    taken = threading.Semaphore(0)
    source = ThreadedSource(silences, taken)
    decoder = Decoder(source, StageTimes(), when_behind="drop")  # type: ignore[arg-type]
    decoder.start()
    end = time.monotonic() + 20
    while decoder.dropped < len(silences) - 1 and time.monotonic() < end:
        time.sleep(0.01)
    frame = decoder.take()
    decoder.halt()
    assert frame is not None
    assert frame.index == len(silences) - 1
    assert frame.silence == pytest.approx(longest)


def test_lost_connection_counts_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("streamseg.runtime.sources.streaming.time.monotonic", clock)

    class Breaking(CameraReader):
        def read(self) -> Picture | None:
            if self._next == 5:
                raise SourceError("unplugged")
            return super().read()

    readers = iter([Breaking(clock), CameraReader(clock)])

    def open_reader() -> CameraReader:
        clock.now += 3.0
        return next(readers)

    source = StreamingSource(open_reader, "camera", SourceOptions(backoff=0.1))
    silences = [next(frames).silence for frames in [iter(source)] for _ in range(8)]
    assert max(silences[:5]) <= 1 / FPS + 1e-6  # type: ignore[type-var, operator]
    assert silences[5] == pytest.approx(3.0, abs=0.2)

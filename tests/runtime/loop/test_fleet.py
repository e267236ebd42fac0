from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamseg
from streamseg.errors import SourceError, StreamsegError
from streamseg.runtime.backends.onnxruntime import OnnxRuntimeLane
from streamseg.runtime.loop.decoding import OpenSource
from streamseg.runtime.loop.fleet import Fleet
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from streamseg.runtime.video.resize import Image
from tests.runtime.clips import write_clip, write_folder
from tests.runtime.toy import HEIGHT, WIDTH, ToyReference, write_toy_bundle


def noise(seed: int, index: int) -> Image:
    return np.random.default_rng((seed, index)).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


class NoiseSource:
    """Frames of random numbers; ``gate`` may hold them up or raise."""

    fps, frame_count, size = 25.0, None, (HEIGHT, WIDTH)
    corrupt, reconnects, passed_over, detail, on_event = 0, 0, 0, "", None

    def __init__(
        self,
        seed: int,
        frames: int | None = None,
        *,
        gate: Callable[[int], object] = lambda _index: None,
        live: bool = False,
    ) -> None:
        self.name, self.live = f"noise {seed}", live
        self._seed, self._frames, self._gate = seed, frames, gate
        self.stopped = threading.Event()
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for index in itertools.count():
            if self.stopped.is_set() or index == self._frames:
                return
            self._gate(index)
            yield Frame(noise(self._seed, index), index, index / 25)

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        self.closed = True
        self.stop()


def noise_of(
    seed: int, frames: int | None = None, gate: Callable[[int], object] = lambda _index: None
) -> OpenSource:
    return lambda _stop: NoiseSource(seed, frames, gate=gate)


NO_CUTS = StatePolicy(scene_cut=float("inf"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


@pytest.fixture
def fleet(bundle: Path) -> Iterator[Fleet]:
    with streamseg.open_fleet(bundle, threads=1) as opened:
        yield opened
    assert not [t for t in threading.enumerate() if t.name == "streamseg-decode"]


def expected_labels(seed: int, frames: int) -> list[Image]:
    reference = ToyReference()
    return [reference.step(noise(seed, i)).argmax(axis=0).astype(np.uint8) for i in range(frames)]


def test_every_stream_has_the_labels_that_it_has_alone(fleet: Fleet) -> None:
    for seed in range(5):
        fleet.add(f"s{seed}", noise_of(seed, 12), policy=NO_CUTS)
    seen: dict[str, list[Image]] = {name: [] for name in fleet.names}
    for done in fleet:
        seen[done.stream].append(done.result.labels.copy())
        assert done.result.step == done.frame.index
    for seed in range(5):
        np.testing.assert_array_equal(seen[f"s{seed}"], expected_labels(seed, 12))
    assert fleet.names == ()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_streams_stepped_at_once_have_the_labels_that_they_have_alone(
    bundle: Path, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    options = {"backend": backend, "threads": 1, "parallel": 3}
    sources = {f"s{seed}": noise_of(seed, 12) for seed in range(5)}
    seen: dict[str, list[Image]] = {name: [] for name in sources}
    with streamseg.open_fleet(bundle, **options) as fleet:
        assert fleet.stream.execution.endswith("3 steps at once")
        for name, source in sources.items():
            fleet.add(name, source, policy=NO_CUTS)
        for done in fleet:
            seen[done.stream].append(done.result.labels.copy())
            assert done.result.step == done.frame.index
    for seed in range(5):
        np.testing.assert_array_equal(seen[f"s{seed}"], expected_labels(seed, 12))


def test_parallel_steps_of_two_streams_overlap(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step waits for one of the other stream: one after the other none would end."""
    both, run = threading.Barrier(2, timeout=20), OnnxRuntimeLane._run

    def run_with_another(lane: OnnxRuntimeLane, *arguments: Any) -> None:
        both.wait()
        run(lane, *arguments)

    monkeypatch.setattr(OnnxRuntimeLane, "_run", run_with_another)
    with streamseg.open_fleet(bundle, backend="onnxruntime", threads=1, parallel=2) as fleet:
        for seed in range(2):
            fleet.add(f"s{seed}", noise_of(seed, 6), policy=NO_CUTS)
        assert Counter(done.stream for done in fleet) == {"s0": 6, "s1": 6}
        assert not fleet.failed


def test_addresses_are_opened_and_metrics_are_kept(fleet: Fleet, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6)
    folder = write_folder(tmp_path / "images", [(20, 30)] * 4)
    members = [fleet.add("clip", str(clip)), fleet.add("images", str(folder))]
    counts = Counter(done.stream for done in fleet)
    assert counts == {"clip": 6, "images": 4}
    for member in members:
        figures = member.metrics.read()
        assert figures.frames == counts[member.name]
        assert figures.buckets[-1] == figures.frames
        assert figures.latency[0] > 0
    assert members[0].source_name == str(clip)


def test_streams_take_turns_however_fast_their_sources_are(fleet: Fleet) -> None:
    """A source that always has frames gets no more turns than those that just keep up."""
    for seed in range(4):
        fleet.add(f"s{seed}", noise_of(seed), policy=NO_CUTS)
    turns = []
    for done in fleet:
        time.sleep(0.003)  # slower than any source: all have frames ready
        turns.append(done.stream)
        if len(turns) == 80:
            break
    later = turns[20:]
    for start in range(0, len(later), 4):
        assert len(set(later[start : start + 4])) == 4


def test_stalled_source_delays_no_other_stream(fleet: Fleet) -> None:
    release = threading.Event()

    def stall(index: int) -> None:
        if index == 2:
            release.wait(20)

    def never_opens(stop: threading.Event) -> NoiseSource:
        stop.wait(20)
        raise SourceError("no answer")

    fleet.add("stalled", noise_of(1, gate=stall), policy=NO_CUTS)
    fleet.add("absent", never_opens)
    fleet.add("good", noise_of(2, 200), policy=NO_CUTS)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    for done in fleet:
        counts[done.stream] += 1
        if counts["good"] == 200:
            break
    assert time.monotonic() - began < 10
    assert counts == {"good": 200, "stalled": 2}
    release.set()


def test_request_reaches_a_stalled_stream(fleet: Fleet) -> None:
    release = threading.Event()
    stalled = fleet.add(
        "stalled",
        noise_of(1, gate=lambda index: index == 3 and release.wait(20)),
        policy=NO_CUTS,
    )
    fleet.add("good", noise_of(2), policy=NO_CUTS)
    future = None
    for _ in fleet:
        if future is None and stalled.session.frames == 3:
            future = stalled.session.request_reset("test")
        if future is not None and future.done():
            break
    assert future is not None
    assert future.result().cause == "request"
    assert stalled.session.stream.steps == 0
    release.set()


def test_streams_join_and_leave_while_others_run(bundle: Path) -> None:
    events: list[Event] = []
    with streamseg.open_fleet(bundle, threads=1, on_event=events.append) as fleet:
        fleet.add("a", noise_of(1, 60), policy=NO_CUTS)
        counts: Counter[str] = Counter()
        labels = []
        for done in fleet:
            counts[done.stream] += 1
            if done.stream == "a":
                labels.append(done.result.labels.copy())
            if counts["a"] == 5 and "b" not in counts:
                fleet.add("b", noise_of(2), policy=NO_CUTS)
            if done.stream == "b" and counts["b"] == 7:
                fleet.remove("b")
        assert counts["a"] == 60
        assert counts["b"] == 7
        np.testing.assert_array_equal(labels, expected_labels(1, 60))
        again = fleet.add("b", noise_of(2, 3), policy=NO_CUTS)
        assert [done.result.step for done in fleet] == [0, 1, 2]
        assert again.metrics.frames == 3
    message = [(event.stream, event.kind, event.reason) for event in events]
    assert ("b", "end", "removed") in message
    assert ("a", "end", "the source ended") in message
    assert [kind for stream, kind, _ in message if stream == "a"] == ["start", "end"]


def test_stream_that_fails_leaves_the_others_alone(bundle: Path, tmp_path: Path) -> None:
    def break_off(index: int) -> None:
        if index == 3:
            raise SourceError("the cable is cut")

    events: list[Event] = []
    with streamseg.open_fleet(bundle, threads=1, on_event=events.append) as fleet:
        fleet.add("missing", str(tmp_path / "none.mp4"))
        fleet.add("broken", noise_of(1, gate=break_off), policy=NO_CUTS)
        fleet.add("good", noise_of(2, 30), policy=NO_CUTS)
        counts = Counter(done.stream for done in fleet)
    assert counts == {"broken": 3, "good": 30}
    ends = {event.stream: event.reason for event in events if event.kind == "end"}
    assert "no such video" in ends["missing"]
    assert ends["broken"] == "the cable is cut"


def test_exit_requests_pass_through(fleet: Fleet) -> None:
    def fail(_stop: threading.Event) -> NoiseSource:
        raise SystemExit(3)

    fleet.add("a", fail)
    with pytest.raises(SystemExit):
        list(fleet)


def test_events_carry_the_streams_name(bundle: Path) -> None:
    events: list[Event] = []
    with streamseg.open_fleet(bundle, threads=1, on_event=events.append) as fleet:
        member = fleet.add("a", noise_of(1, 40), policy=NO_CUTS)
        for done in fleet:
            if done.frame.index == 5:
                member.session.request_reset("by hand")
    resets = [event for event in events if event.kind == "reset"]
    assert [(e.stream, e.cause, e.frame) for e in resets] == [("a", "request", 6)]
    assert member.metrics.read().resets == {"request": 1}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65, "a\0", "a b", "ä"])
def test_names_that_cannot_be_file_names_are_rejected(fleet: Fleet, name: str) -> None:
    with pytest.raises(StreamsegError, match="stream name"):
        fleet.add(name, noise_of(1))


def test_wrong_calls_are_reported(fleet: Fleet) -> None:
    fleet.add("a", noise_of(1))
    with pytest.raises(StreamsegError, match="already"):
        fleet.add("a", noise_of(1))
    with pytest.raises(StreamsegError, match="no stream 'b'"):
        fleet.remove("b")
    fleet.stop()
    with pytest.raises(StreamsegError, match="stopped"):
        fleet.add("c", noise_of(1))


def test_fleet_that_stays_waits_for_streams(bundle: Path) -> None:
    with streamseg.open_fleet(bundle, threads=1, stay=True) as fleet:
        threading.Timer(0.3, fleet.add, ("late", noise_of(1, 3))).start()
        threading.Timer(1.5, fleet.stop).start()
        assert len(list(fleet)) == 3
        assert fleet.idle < 10


def test_request_runs_in_the_iterating_thread(fleet: Fleet) -> None:
    threads = []
    fleet.add("a", noise_of(1, 3))
    fleet.request(lambda: threads.append(threading.current_thread()))
    list(fleet)
    assert threads == [threading.current_thread()]


def test_many_streams_cost_one_thread_each(bundle: Path) -> None:
    with streamseg.open_fleet(bundle, threads=1) as fleet:
        before = threading.active_count()
        gate = threading.Event()
        for index in range(60):
            fleet.add(
                f"s{index}",
                noise_of(index, 4, gate=lambda _: gate.wait(20)),
                policy=NO_CUTS,
            )
        assert threading.active_count() - before == 60
        gate.set()
        counts = Counter(done.stream for done in fleet)
    assert set(counts.values()) == {4}
    assert len(counts) == 60


def test_session_of_a_member_is_as_good_as_one_alone(fleet: Fleet) -> None:
    """A member's snapshot resumes elsewhere, bit for bit."""
    member = fleet.add("a", noise_of(3, 10), policy=NO_CUTS)
    for done in fleet:
        if done.frame.index == 4:
            snapshot = member.session.snapshot()
    other = Session(fleet.stream.sibling(), NO_CUTS)
    other.restore(snapshot)
    expected = expected_labels(3, 10)
    for index in range(5, 10):
        frame = Frame(noise(3, index), index, index / 25)
        np.testing.assert_array_equal(other.process(frame).labels, expected[index])

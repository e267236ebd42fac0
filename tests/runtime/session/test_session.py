"""The session's policy over the toy bundle: carried, ring and key state."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import streamseg
from streamseg.errors import FrameMismatch, StateMismatch, StreamsegError
from streamseg.option_fields import OFF
from streamseg.runtime.bundle.bundle import MANIFEST
from streamseg.runtime.bundle.manifest import GraphSpec, ScheduleRow
from streamseg.runtime.bundle.state import StateSpec
from streamseg.runtime.session.event_log import EventLog
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from tests.runtime.clips import small_disk
from tests.runtime.toy import CARRY, HEIGHT, KEY, MAP, RING, WIDTH, toy_manifest, write_toy_bundle

STILL = StatePolicy(scene_cut=OFF, check_every=1)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def stream(toy: Path) -> Iterator[streamseg.Stream]:
    with streamseg.open(toy) as opened:
        yield opened


def frame(
    index: int, *, time: float | None = None, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Frame:
    image = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Frame(image, index, index / 10 if time is None else time)


def logits(session: Session, frames: list[Frame]) -> list[np.ndarray[Any, Any]]:
    return [np.copy(session.process(item).logits) for item in frames]


def run(stream: streamseg.Stream, frames: list[Frame], policy: StatePolicy) -> list[Event]:
    events: list[Event] = []
    session = Session(stream, policy, name="cam", on_event=events.append)
    logits(session, frames)
    assert sum(session.resets.values()) == sum(event.kind == "reset" for event in events)
    return events


def test_session_steps_as_the_stream_does(toy: Path) -> None:
    frames = [frame(i) for i in range(9)]
    with streamseg.open(toy) as stream, streamseg.open(toy) as other:
        expected = [np.copy(stream.step(item.image).logits) for item in frames]
        session = Session(other, STILL)
        assert np.array_equal(logits(session, frames), expected)
        assert (session.frames, session.resets) == (9, {})


def test_gap_resets_once_and_only_beyond_the_limit(stream: streamseg.Stream) -> None:
    times = [0, 0.1, 0.2, 1.2, 2.45, 2.5]
    frames = [frame(i, time=time) for i, time in enumerate(times)]
    policy = StatePolicy(gap_reset=1.0, scene_cut=OFF)
    (event,) = run(stream, frames, policy)
    assert (event.kind, event.cause, event.frame, event.timestamp) == ("reset", "gap", 4, 2.45)
    assert event.stream == "cam"
    assert "1.25 s without a frame" in event.reason
    assert stream.steps == 2
    assert run(stream, frames, StatePolicy(gap_reset=None, scene_cut=OFF)) == []


@pytest.mark.parametrize("split", [None, 3, 12])
def test_slow_streams_have_gaps_only_where_they_are_long_for_them(
    toy: Path, tmp_path: Path, split: int | None
) -> None:
    """A frame every two seconds, then none for seven; also where the run was split."""
    times = [2.0 * i for i in range(12)] + [2.0 * i + 5 for i in range(12, 20)]
    events: list[Event] = []
    with streamseg.open(toy) as stream:
        session = Session(stream, StatePolicy(scene_cut=OFF), on_event=events.append)
        for index, time in enumerate(times):
            if index == split:
                session.save(tmp_path / "state")
                other = stream.sibling()
                session = Session(other, StatePolicy(scene_cut=OFF), on_event=events.append)
                session.load(tmp_path / "state")
            session.process(frame(index, time=time))
    resets = [(event.cause, event.frame) for event in events if event.kind == "reset"]
    # The second frame's gap is long: nothing is known of the stream yet.
    assert resets == [("gap", 1), ("gap", 12)]
    with streamseg.open(toy) as stream:
        strict = StatePolicy(gap_reset=1.5, gap_ratio=0.0, scene_cut=OFF)
        assert len(run(stream, [frame(i, time=t) for i, t in enumerate(times)], strict)) == 19


def test_change_of_geometry_resets_and_continues(stream: streamseg.Stream) -> None:
    frames = [frame(0), frame(1), frame(2, size=(12, 20)), frame(3, size=(12, 20))]
    change, reset = run(stream, frames, STILL)
    assert (change.kind, change.frame) == ("geometry", 2)
    assert (reset.kind, reset.cause, reset.frame) == ("reset", "geometry", 2)
    assert reset.reason == "frames are 12x20 from here on, 6x8 before"
    assert stream.steps == 2


def test_invalid_frames_are_rejected_before_any_decision(
    stream: streamseg.Stream,
) -> None:
    session = Session(stream)
    for image in (np.zeros((6, 8, 3), np.float32), np.zeros((6, 8), np.uint8)):
        with pytest.raises(FrameMismatch, match="expected"):
            session.process(Frame(image, 0, 0.0))  # type: ignore[arg-type]
    assert session.frames == 0


@pytest.mark.parametrize("state", [CARRY, RING, KEY])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_state_that_is_not_finite_resets(
    stream: streamseg.Stream, state: Any, value: float
) -> None:
    events: list[Event] = []
    session = Session(stream, StatePolicy(scene_cut=OFF, check_every=4), on_event=events.append)
    logits(session, [frame(i) for i in range(6)])
    saved = stream.snapshot()
    spoiled = saved.tensors[state.name].copy()
    spoiled.reshape(-1)[-1] = value
    stream.restore(streamseg.StateSnapshot(6, {**saved.tensors, state.name: spoiled}, saved.model))
    logits(session, [frame(i) for i in (6, 7)])
    assert events == []
    fresh = [frame(i) for i in range(8, 12)]
    result = logits(session, fresh)
    (event,) = events
    assert (event.kind, event.cause, event.frame) == ("reset", "nonfinite", 8)
    with stream.sibling() as other:
        assert np.array_equal(result, [np.copy(other.step(item.image).logits) for item in fresh])


def test_requests_of_other_threads_wait_for_the_next_frame(stream: streamseg.Stream) -> None:
    events: list[Event] = []
    session = Session(stream, STILL, on_event=events.append)
    logits(session, [frame(0), frame(1)])
    futures = []
    asking = threading.Thread(target=lambda: futures.append(session.request_reset("a button")))
    asking.start()
    asking.join()
    assert not futures[0].done()
    assert stream.steps == 2
    session.process(frame(2))
    assert futures[0].result(0) == events[0]
    assert (events[0].cause, events[0].reason, events[0].frame) == ("request", "a button", 2)
    assert session.resets["request"] == 1
    assert stream.steps == 1


def test_requests_are_served_while_no_frame_comes(stream: streamseg.Stream, tmp_path: Path) -> None:
    session = Session(stream, STILL)
    early = session.request_snapshot(tmp_path / "early")
    session.serve()
    with pytest.raises(StreamsegError, match="no frame came"):
        early.result(0)
    session.process(frame(0))
    written = session.request_snapshot(tmp_path / "state")
    session.serve()
    assert written.result(0).kind == "snapshot"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("split", [1, 2, 5, 6, 7, 11])
def test_snapshot_file_resumes_bit_for_bit_and_forks(toy: Path, tmp_path: Path, split: int) -> None:
    frames = [
        Frame(item.image // 32 + np.uint8(((20, 60, 240), (240, 120, 0))[i // 6 % 2]), i, i / 10)
        for i, item in enumerate(map(frame, range(15)))
    ]
    policy = StatePolicy()
    with streamseg.open(toy) as stream:
        session = Session(stream, policy)
        expected = logits(session, frames)
        assert session.resets == {"cut": 2}
    with streamseg.open(toy) as stream:
        session = Session(stream, policy)
        logits(session, frames[:split])
        session.save(tmp_path / "state")
    with streamseg.open(toy) as stream, stream.sibling() as fork:
        for opened in (stream, fork):
            session = Session(opened, policy)
            assert session.load(tmp_path / "state").position.index == split - 1
            assert np.array_equal(logits(session, frames[split:]), expected[split:])


def test_failed_snapshot_is_reported_and_the_stream_continues(
    stream: streamseg.Stream, tmp_path: Path
) -> None:
    events: list[Event] = []
    session = Session(stream, STILL, on_event=events.append)
    session.process(frame(0))
    future = session.request_snapshot(tmp_path / "none" / "state")
    session.process(frame(1))
    with pytest.raises(StreamsegError, match=r"cannot write .*none/state: No such file"):
        future.result(0)
    assert [event.kind for event in events] == ["failed"]
    assert stream.steps == 2


def saved_state(stream: streamseg.Stream, path: Path) -> Session:
    session = Session(stream, STILL)
    logits(session, [frame(i) for i in range(5)])
    session.save(path)
    return session


def test_damaged_state_files_are_refused(stream: streamseg.Stream, tmp_path: Path) -> None:
    path = tmp_path / "state"
    session = saved_state(stream, path)
    content = path.read_bytes()
    before = [np.copy(value) for value in stream.snapshot().tensors.values()]
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    other_step = content.replace(b'"step":"5"', b'"step":"4"')
    assert other_step != content
    for damaged in (content[:-1], content[:40], b"", flipped, other_step, b"\0" * 100):
        path.write_bytes(damaged)
        with pytest.raises(StateMismatch, match=r"state"):
            session.load(path)
    path.write_bytes(content + b"\0" * (2 << 20))
    with pytest.raises(StateMismatch, match="at most"):
        session.load(path)
    path.unlink()
    with pytest.raises(StateMismatch, match="no such state file"):
        session.load(path)
    after = stream.snapshot().tensors.values()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_state_of_another_model_is_refused(stream: streamseg.Stream, tmp_path: Path) -> None:
    saved_state(stream, tmp_path / "state")
    stream.identity = "f" * 64
    with pytest.raises(StateMismatch, match=r"state: this snapshot is of model"):
        Session(stream).load(tmp_path / "state")


@pytest.mark.parametrize(
    "wrong",
    [
        {"gap_reset": 0.0},
        {"scene_cut": -1.0},
        {"check_every": -1},
        {"gap_reset": np.nan},
        {"gap_ratio": -1.0},
    ],
)
def test_policy_refuses_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(StreamsegError, match="expected"):
        StatePolicy(**wrong)


def test_sessions_of_siblings_keep_their_states_and_resets_apart(stream: streamseg.Stream) -> None:
    frames = [frame(i) for i in range(8)]
    alone = logits(Session(stream.sibling(), STILL), frames)
    first, second = Session(stream.sibling(), STILL), Session(stream.sibling(), STILL)
    seen = []
    for index, item in enumerate(frames):
        if index == 4:
            second.request_reset()
        seen += logits(first, [item])
        logits(second, [item])
    assert np.array_equal(seen, alone)
    assert (first.resets, second.resets) == ({}, {"request": 1})
    assert (first.stream.steps, second.stream.steps) == (8, 4)


def test_snapshots_are_made_every_so_many_frames_and_at_the_end(
    stream: streamseg.Stream, tmp_path: Path
) -> None:
    events: list[Event] = []
    jobs: list[Callable[[], None]] = []
    file = tmp_path / "state"
    session = Session(
        stream,
        STILL,
        on_event=events.append,
        snapshot=file,
        snapshot_every=3,
        run_job=jobs.append,
    )
    for index in range(8):
        logits(session, [frame(index)])
    session.end()
    assert events == []
    for job in jobs:
        job()
    assert [(event.kind, event.frame) for event in events] == [
        ("snapshot", 3), ("snapshot", 6), ("snapshot", 8)
    ]  # fmt: skip
    session.end()
    assert len(jobs) == 3
    assert session.load(file).position.index == 7


def test_snapshots_need_a_file(stream: streamseg.Stream) -> None:
    with pytest.raises(StreamsegError, match="expected a file"):
        Session(stream, snapshot_every=3)
    session = Session(stream, STILL)
    session.process(frame(0))
    future = session.request_snapshot()
    session.serve()
    with pytest.raises(StreamsegError, match="give --snapshot FILE"):
        future.result(0)
    cancelled = session.request_reset()
    assert cancelled.cancel()
    session.serve()
    assert session.resets == {}


def test_events_reach_the_log_where_nobody_handles_them(
    stream: streamseg.Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="streamseg.runtime.session.session")
    session = Session(stream, STILL, name="cam")
    session.process(frame(0))
    session.request_reset("a button")
    session.serve()
    assert caplog.messages == ["cam: frame 1 at 0.000 s: reset (request): a button"]


def test_event_log_survives_a_full_disk(tmp_path: Path) -> None:
    said: list[str] = []
    with small_disk(tmp_path / "disk", 16) as disk:
        log = EventLog(said.append, disk / "events")
        log(Event("reset", "cam", 3, 0.12, "a button", "request", 1.5))
        written = json.loads((disk / "events").read_text())
        log(Event("reset", "cam", 4, 0.16, "x" * 20_000))
        log(Event("start", "cam", 5, 0.2, "frames of 6x8"))
        log.close()
    assert written == {
        "kind": "reset", "stream": "cam", "frame": 3, "timestamp": 0.12, "reason": "a button",
        "cause": "request", "time": 1.5,
    }  # fmt: skip
    assert said[0] == "cam: frame 3 at 0.120 s: reset (request): a button"
    assert "No space left" in said[2]
    assert len(said) == 3


GIVEN = StateSpec("bias", MAP, init="unset", kind="given")


def write_given_bundle(folder: Path) -> Path:
    """The toy's trace alone, with a bias that comes from outside: trace' = trace / 2 + bias."""
    shape = list(MAP)
    inputs = [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])]
    for name in ("trace.in", "bias.in"):
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH]),
        helper.make_tensor_value_info("trace.out", TensorProto.FLOAT, shape),
    ]
    nodes = [
        helper.make_node("Mul", ["trace.in", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "bias.in"], ["trace.out"]),
        helper.make_node("Cast", ["trace.out"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Squeeze", ["bytes", "one"], ["labels"]),
    ]
    constants = [
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(nodes, "given", inputs, outputs, constants)
    return write_step_bundle(folder, graph, (CARRY, GIVEN), ("trace",))


def write_step_bundle(
    folder: Path, graph: Any, state: tuple[StateSpec, ...], writes: tuple[str, ...]
) -> Path:
    """A bundle of one graph that reads every state."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    content = model.SerializeToString()
    reads = tuple(spec.name for spec in state)
    manifest = replace(
        toy_manifest({"step.onnx": content}),
        state=state,
        graphs={"step": GraphSpec("step.onnx", reads, writes, ("labels",))},
        schedule=(ScheduleRow(0, "step"),),
    )
    folder.mkdir()
    (folder / "step.onnx").write_bytes(content)
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def test_given_state_is_in_the_snapshot_and_outlives_a_reset(tmp_path: Path) -> None:
    bundle, file = write_given_bundle(tmp_path / "given"), tmp_path / "state"
    frames = [frame(i) for i in range(6)]
    bias = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(MAP)
    with streamseg.open(bundle) as stream:
        stream.give("bias", bias)
        session = Session(stream, STILL)
        whole = [session.process(item).labels.copy() for item in frames]
        session.request_reset()
        assert np.array_equal(session.process(frames[0]).labels, whole[0])
    with streamseg.open(bundle) as stream:
        stream.give("bias", bias)
        session = Session(stream, STILL)
        for item in frames[:3]:
            session.process(item)
        session.save(file)
    with streamseg.open(bundle) as stream:
        session = Session(stream, STILL)
        session.load(file)
        seen = [session.process(item).labels.copy() for item in frames[3:]]
        assert np.array_equal(seen, whole[3:])
        session.request_reset()
        assert np.array_equal(session.process(frames[0]).labels, whole[0])


def test_bundles_without_state_report_geometry_and_reset_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["frame", "one"], ["green"], axis=3),
        helper.make_node("Squeeze", ["green", "last"], ["labels"]),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
    ]
    inputs = [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])]
    outputs = [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH])]
    graph = helper.make_graph(nodes, "plain", inputs, outputs, constants)
    bundle = write_step_bundle(tmp_path / "plain", graph, (), ())
    with streamseg.open(bundle) as stream:
        frames = [frame(0), frame(1, time=50.0), frame(2, time=50.1, size=(12, 20))]
        (event,) = run(stream, frames, StatePolicy(scene_cut=0.001, check_every=1))
        assert (event.kind, event.frame) == ("geometry", 2)
        assert stream.steps == 3


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_frames_prepared_ahead_give_the_labels_of_plain_steps(toy: Path, fit: str) -> None:
    sizes = [(HEIGHT, WIDTH)] * 2 + [(31, 17)] * 3 + [(HEIGHT, WIDTH), (31, 17)]
    frames = [frame(index, size=size) for index, size in enumerate(sizes)]
    with streamseg.open(toy, letterbox=fit == "letterbox") as stream:
        plain = []
        for before, item in zip([frames[0], *frames], frames, strict=False):
            if item.size != before.size:
                stream.reset()
            plain.append(stream.step(item.image))
        ahead = Session(stream.sibling(), STILL)
        prepared = [ahead.prepare(item) for item in frames]  # all before the first step
        for item, expected in zip(prepared, plain, strict=True):
            found = ahead.process(item)
            assert np.array_equal(found.labels, expected.labels)
            assert found.labels.shape == item.size

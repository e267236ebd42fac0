"""Less work where little changes, over a bundle of two graphs and the toy with carried state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import streamseg
from streamseg.errors import StreamsegError
from streamseg.runtime.bundle.bundle import MANIFEST
from streamseg.runtime.bundle.manifest import GraphSpec, ScheduleRow
from streamseg.runtime.session.adaptation import Adaptation, difference, key_pair, shrink
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import OFF, StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from tests.runtime.toy import HEIGHT, KEY, MAP, WIDTH, ToyReference, toy_manifest, write_toy_bundle


def pair_graph(*, key: bool) -> bytes:
    """Logits (g, key), and of key frames the key state; g is the green channel / 255."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Gather", ["frame", "one"], ["green"], axis=3),
        helper.make_node("Cast", ["green"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["g"]),
        *([helper.make_node("Identity", ["g"], ["key.out"])] if key else []),
        helper.make_node("Concat", ["g", "key.out" if key else "key.in"], ["logits"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    inputs = [value("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])]
    inputs += [] if key else [value("key.in", TensorProto.FLOAT, MAP)]
    outputs = [
        value("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH]),
        value("logits", TensorProto.FLOAT, [1, 2, HEIGHT, WIDTH]),
        *([value("key.out", TensorProto.FLOAT, MAP)] if key else []),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
    ]
    graph = helper.make_graph(nodes, "pair", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key frames every fifth step."""
    folder = tmp_path_factory.mktemp("pair")
    files = {"key.onnx": pair_graph(key=True), "between.onnx": pair_graph(key=False)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    outputs = ("labels", "logits")
    base = toy_manifest(files)
    manifest = replace(
        base,
        state=(KEY,),
        graphs={
            "key": GraphSpec("key.onnx", (), ("key",), outputs),
            "between": GraphSpec("between.onnx", ("key",), (), outputs),
        },
        schedule=(ScheduleRow(0, "between"), ScheduleRow(0, "key", every=5)),
        classes=base.classes[:2],
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def stream(pair: Path) -> Iterator[streamseg.Stream]:
    with streamseg.open(pair) as opened:
        yield opened


def picture(level: int) -> np.ndarray[Any, Any]:
    """Grey with a ramp, so that labels differ from pixel to pixel."""
    ramp = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH, 1)
    return np.broadcast_to(ramp + np.uint8(level), (HEIGHT, WIDTH, 3)).copy()


def frames(levels: list[int]) -> list[Frame]:
    return [Frame(picture(level), index, index / 10) for index, level in enumerate(levels)]


def session_of(
    stream: streamseg.Stream, settings: Adaptation, events: list[Event] | None = None
) -> Session:
    message: list[Event] = [] if events is None else events
    return Session(stream, StatePolicy(scene_cut=OFF, adaptation=settings), on_event=message.append)


def test_key_frames_follow_change_and_age(stream: streamseg.Stream) -> None:
    levels = [0, 5, 9, 12, 12, 12, 12, 13, 51, 52, 100]
    events: list[Event] = []
    session = session_of(stream, Adaptation(key_change=10, key_most=4), events)
    keys = {0: 0, 3: 12, 7: 13, 8: 51, 10: 100}  # by change, then age, then change
    key = 0
    for item, level in zip(frames(levels), levels, strict=True):
        key = keys.get(item.index, key)
        found = np.copy(session.process(item).logits)
        np.testing.assert_allclose(found[0] * 255, picture(level)[..., 1], atol=1e-3)
        np.testing.assert_allclose(found[1] * 255, picture(key)[..., 1], atol=1e-3)
    assert [(event.kind, event.frame) for event in events] == [("key", i) for i in keys]
    assert [event.reason for event in events] == [
        "the first frame",
        "change 12.0 of 10",
        "4 frames since the last",
        "change 38.0 of 10",
        "change 49.0 of 10",
    ]


def test_without_adaptation_the_schedule_holds(stream: streamseg.Stream) -> None:
    session = session_of(stream, Adaptation())
    for item in frames(list(range(0, 120, 10))):
        found = np.copy(session.process(item).logits)
        key = item.index - item.index % 5
        np.testing.assert_allclose(found[1] * 255, picture(10 * key)[..., 1], atol=1e-3)
    assert session.carried == 0


def test_labels_are_carried_while_little_changes_and_state_does_not_see_the_frames(
    toy: Path,
) -> None:
    levels = [0, 1, 2, 9, 9, 9, 9, 9, 40]
    stepped = [0, 3, 7, 8]
    reference, events = ToyReference(), []
    with streamseg.open(toy) as stream:
        session = session_of(stream, Adaptation(carry_below=3, carry_most=3), events)
        labels = None
        for item in frames(levels):
            result = session.process(item)
            if item.index in stepped:
                expected = reference.step(item.image)
                np.testing.assert_allclose(result.logits, expected, atol=1e-5)
                labels = result.labels.copy()
            assert np.array_equal(result.labels, labels)
        session.end()
        assert (session.frames, session.carried, stream.steps) == (9, 5, 4)
    message = [(event.kind, event.frame) for event in events]
    assert message == [("carried", 3), ("carried", 7)]
    assert events[0].reason.startswith("2 frames got the labels")


def test_pipelined_results_come_in_order(stream: streamseg.Stream) -> None:
    session = session_of(stream, Adaptation(carry_below=3))
    first, second, third = frames([0, 1, 90])
    session.begin(first)
    session.begin(second)  # carried: no step is under way for it
    a = session.finish()
    b = session.finish()
    session.begin(third)
    c = session.finish()
    assert (a.step, b.step, c.step) == (0, 0, 1)
    assert a.labels is not b.labels
    assert b.timings["step"] == 0


def test_a_frame_of_another_size_and_a_restored_state_are_segmented(toy: Path) -> None:
    with streamseg.open(toy) as stream:
        session = session_of(stream, Adaptation(carry_below=200))
        session.process(Frame(picture(0), 0, 0.0))
        wide = np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8)
        assert session.process(Frame(wide, 1, 0.1)).labels.shape == wide.shape[:2]
        snapshot = session.snapshot()
        session.process(Frame(wide, 2, 0.2))
        assert session.carried == 1
        session.restore(snapshot)
        session.process(Frame(wide, 3, 0.3))
        assert session.carried == 1


def test_state_is_forgotten_after_unsure_labels(toy: Path) -> None:
    events: list[Event] = []
    with streamseg.open(toy) as stream:
        session = session_of(stream, Adaptation(unsure_reset=0.9, unsure_wait=3), events)
        for item in frames([0] * 7):
            session.process(item)
    assert [(event.frame, event.cause) for event in events] == [(3, "unsure"), (6, "unsure")]
    assert "mean confidence 0." in events[0].reason


def test_unsupported_requests_are_rejected(toy: Path, pair: Path) -> None:
    with streamseg.open(toy) as stream:
        assert key_pair(stream.manifest) is None
        with pytest.raises(StreamsegError, match="this one has: warm, key, step"):
            session_of(stream, Adaptation(key_change=1))
    with streamseg.open(pair) as stream:
        assert key_pair(stream.manifest) == ("key", "between")
    with pytest.raises(StreamsegError, match="carry_below is 0"):
        Adaptation(carry_below=0)
    with pytest.raises(StreamsegError, match="unsure_reset is 2"):
        Adaptation(unsure_reset=2)


def test_change_sees_small_objects_and_ignores_single_cells() -> None:
    still = np.full((360, 640, 3), 100, np.uint8)
    dot, disk = still.copy(), still.copy()
    dot[:10, :10] = 255  # one cell
    disk[100:200, 100:200] = 160  # a hundred cells of 2304
    assert difference(shrink(still), shrink(dot)) == 0
    assert difference(shrink(still), shrink(disk)) == pytest.approx(60, abs=1)

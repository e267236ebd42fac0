"""The conformance cases: small bundles, and what they must answer, worked out in NumPy.

Every value is exact in float32 (bytes, halved at most sixteen times), so that each runtime must
give the same labels, whatever its order of operations. `write_cases.py` writes them to files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from streamseg.runtime.bundle.bundle import digest
from streamseg.runtime.bundle.manifest import (
    ClassInfo,
    FrameSpec,
    GraphSpec,
    Manifest,
    ScheduleRow,
)
from streamseg.runtime.bundle.state import StateSpec

HEIGHT, WIDTH = 6, 10
MAP = (1, 1, HEIGHT, WIDTH)
THRESHOLD = np.float32(128.125)
COLORS = ((230, 60, 60), (60, 200, 90), (70, 110, 240), (240, 200, 60))

Array = NDArray[np.generic]
Node = onnx.NodeProto
# A computation: (frame [H, W, 3] uint8, step since reset, memory) -> logits [K, H, W].
Compute = Callable[[NDArray[np.uint8], int, dict[str, Any]], NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One bundle and the actions to play on it.

    Attributes:
        name: its folder.
        about: what a runtime proves with it.
        manifest: without files; ``write_cases.py`` adds their SHA-256.
        files: name -> content of graphs and arrays.
        compute: the independent computation of a step; may replace what ``memory`` holds, and
            never writes into it.
        actions: ``step``, ``reset``, ``snapshot NAME`` or ``restore NAME``.
        margin: the least distance between the best two logits of a pixel.
    """

    name: str
    about: str
    state: tuple[StateSpec, ...]
    graphs: dict[str, GraphSpec]
    schedule: tuple[ScheduleRow, ...]
    files: dict[str, bytes]
    compute: Compute
    actions: tuple[str, ...]
    classes: int = 3
    margin: float = 0.0

    def manifest(self) -> Manifest:
        """The manifest with the files' SHA-256."""
        return Manifest(
            model={"family": "conformance", "encoder": "none", "case": self.name},
            frame=FrameSpec(HEIGHT, WIDTH, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            state=self.state,
            graphs=self.graphs,
            schedule=self.schedule,
            classes=tuple(ClassInfo(i, f"class{i}", COLORS[i]) for i in range(self.classes)),
            files={name: digest(content) for name, content in self.files.items()},
            weights={"license": "Apache-2.0", "source": "computed by hand, no weights"},
        )


FREE = ("step",) * 7
WITH_RESET = (
    *FREE,
    *("snapshot a", "step", "step", "reset", "step", "step", "step"),
    *("restore a", "step", "step", "snapshot b", "reset", "step", "restore b", "step"),
)


def all_cases() -> list[Case]:
    """Every case, in the order of the README."""
    return [stateless(), carry(), ring(), key(), given(), dtypes(), mixed()]


def stateless() -> Case:
    """No state at all."""
    nodes = [*_green(), *_labels("green", "constant")]
    return Case(
        "stateless",
        "a graph without state; frames are independent",
        (),
        {"step": GraphSpec("step.onnx", (), (), ("labels",))},
        (ScheduleRow(0, "step"),),
        {"step.onnx": _graph(nodes, {}, {})},
        _of_green(lambda green, _, __: np.stack([green, _flat(green)])),
        WITH_RESET,
        classes=2,
    )


def carry() -> Case:
    """A tensor that every step reads and writes."""
    nodes = [
        *_green(),
        _node("Mul", "trace.in", "half", out="decayed"),
        _node("Add", "decayed", "green", out="trace.out"),
        _node("Mul", "trace.out", "half", out="mean"),
        _node("Add", "mean", "quarter", out="memory"),
        *_labels("green", "memory", "constant"),
    ]
    trace = StateSpec("trace", MAP)

    def compute(green: NDArray[np.float32], step: int, memory: dict[str, Any]) -> Any:
        before = memory["trace"] if step else np.zeros_like(green)
        memory["trace"] = before / 2 + green
        return np.stack([green, memory["trace"] / 2 + np.float32(0.25), _flat(green)])

    return Case(
        "carry",
        "a carried state: what a step writes, the next reads",
        (trace,),
        {"step": GraphSpec("step.onnx", ("trace",), ("trace",), ("labels", "logits"))},
        (ScheduleRow(0, "step"),),
        {"step.onnx": _graph(nodes, {"trace.in": MAP}, {"trace.out": MAP}, logits=3)},
        _of_green(compute),
        WITH_RESET,
    )


def ring() -> Case:
    """Past outputs at ages 1 and 3, with a warm-up graph that reads none."""
    past = StateSpec("past", MAP, kind="ring", slots=4)
    warm = [
        *_green(),
        _node("Identity", "green", out="past.out"),
        *_labels("green", "constant", "constant"),
    ]
    full = [
        *_green(),
        _node("Identity", "green", out="past.out"),
        _node("Add", "past.0.in", "past.1.in", out="sum"),
        _node("Mul", "sum", "half", out="mean"),
        _node("Add", "mean", "quarter", out="memory"),
        *_labels("green", "memory", "constant"),
    ]

    def compute(green: NDArray[np.float32], step: int, memory: dict[str, Any]) -> Any:
        greens = memory.setdefault("greens", []) if step else memory.update(greens=[])
        greens = memory["greens"]
        mean = (greens[-1] + greens[-3]) / 2 + np.float32(0.25) if step >= 3 else _flat(green)
        greens.append(green)
        return np.stack([green, mean, _flat(green)])

    reads = {"past.0.in": MAP, "past.1.in": MAP}
    return Case(
        "ring",
        "a ring of four slots read at ages 1 and 3; the first three steps run another graph",
        (past,),
        {
            "warm": GraphSpec("warm.onnx", (), ("past",), ("labels",)),
            "step": GraphSpec("step.onnx", ("past",), ("past",), ("labels",), {"past": 2}),
        },
        (ScheduleRow(0, "warm"), ScheduleRow(3, "step", ages={"past": (1, 3)})),
        {
            "warm.onnx": _graph(warm, {}, {"past.out": MAP}),
            "step.onnx": _graph(full, reads, {"past.out": MAP}),
        },
        _of_green(compute),
        WITH_RESET,
    )


def key() -> Case:
    """A key frame every third step."""
    kept = StateSpec("kept", MAP, kind="key")
    first = [
        *_green(),
        _node("Identity", "green", out="kept.out"),
        *_labels("green", "constant", "constant"),
    ]
    between = [
        *_green(),
        _node("Add", "kept.in", "quarter", out="memory"),
        *_labels("green", "memory", "constant"),
    ]

    def compute(green: NDArray[np.float32], step: int, memory: dict[str, Any]) -> Any:
        if step % 3 == 0:
            memory["kept"] = green
            return np.stack([green, _flat(green), _flat(green)])
        return np.stack([green, memory["kept"] + np.float32(0.25), _flat(green)])

    return Case(
        "key",
        "a key frame every third step; the frames between read what it wrote",
        (kept,),
        {
            "key": GraphSpec("key.onnx", (), ("kept",), ("labels",)),
            "propagate": GraphSpec("propagate.onnx", ("kept",), (), ("labels",)),
        },
        (ScheduleRow(0, "propagate"), ScheduleRow(0, "key", every=3)),
        {
            "key.onnx": _graph(first, {}, {"kept.out": MAP}),
            "propagate.onnx": _graph(between, {"kept.in": MAP}, {}),
        },
        _of_green(compute),
        WITH_RESET,
    )


def given() -> Case:
    """A state from a file of the bundle, which outlives a reset."""
    ramp = (np.arange(HEIGHT * WIDTH, dtype=np.float32) * 4).reshape(MAP)
    nodes = [
        *_green(),
        _node("Add", "ramp.in", "quarter", out="memory"),
        *_labels("green", "memory", "constant"),
    ]
    return Case(
        "given",
        "a given state whose values are a file of the bundle; it outlives a reset",
        (StateSpec("ramp", MAP, init="file:ramp.npy", kind="given"),),
        {"step": GraphSpec("step.onnx", ("ramp",), (), ("labels",))},
        (ScheduleRow(0, "step"),),
        {"step.onnx": _graph(nodes, {"ramp.in": MAP}, {}), "ramp.npy": _npy(ramp)},
        _of_green(
            lambda green, _, __: np.stack([green, ramp[0, 0] + np.float32(0.25), _flat(green)])
        ),
        WITH_RESET,
    )


def dtypes() -> Case:
    """Carried states of every type that a manifest may name."""
    kinds = {"float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
    kinds |= {"int32": TensorProto.INT32, "int64": TensorProto.INT64}
    nodes = [*_green()]
    total = "green"
    for name, kind in kinds.items():
        # Each state holds the last green value; their sum of four is the memory.
        nodes += [
            _node("Cast", f"{name}.in", out=f"{name}_float", to=TensorProto.FLOAT),
            _node("Cast", "green", out=f"{name}.out", to=kind),
        ]
    nodes += [
        _node("Sum", *(f"{name}_float" for name in kinds), out="sum"),
        _node("Mul", "sum", "quarter", out="mean"),
        _node("Add", "mean", "quarter", out="memory"),
        *_labels(total, "memory", "constant"),
    ]

    def compute(green: NDArray[np.float32], step: int, memory: dict[str, Any]) -> Any:
        before = memory["last"] if step else np.zeros_like(green)
        memory["last"] = green
        return np.stack([green, before + np.float32(0.25), _flat(green)])

    reads = {f"{name}.in": (MAP, kind) for name, kind in kinds.items()}
    writes = {f"{name}.out": (MAP, kind) for name, kind in kinds.items()}
    names = tuple(kinds)
    return Case(
        "dtypes",
        "carried states in float16, uint8, int32 and int64",
        tuple(StateSpec(name, MAP, dtype=name) for name in names),
        {"step": GraphSpec("step.onnx", names, names, ("labels",))},
        (ScheduleRow(0, "step"),),
        {"step.onnx": _graph(nodes, reads, writes)},
        _of_green(compute),
        WITH_RESET,
    )


def mixed() -> Case:
    """Carry, ring and key at once, three graphs, rows that overlap."""
    state = (
        StateSpec("trace", MAP),
        StateSpec("past", MAP, kind="ring", slots=3),
        StateSpec("kept", MAP, kind="key"),
    )
    carried = [
        *_green(),
        _node("Mul", "trace.in", "half", out="decayed"),
        _node("Add", "decayed", "green", out="trace.out"),
        _node("Mul", "trace.out", "half", out="mean"),
        _node("Add", "mean", "quarter", out="memory"),
        _node("Identity", "green", out="past.out"),
    ]
    older = [
        _node("Add", "past.0.in", "past.1.in", out="sum"),
        _node("Mul", "sum", "half", out="past_mean"),
    ]
    writes_key = [_node("Identity", "green", out="kept.out")]
    reads_key = [_node("Add", "kept.in", "eighth", out="kept_more")]
    trace, past = {"trace.in": MAP}, {"past.0.in": MAP, "past.1.in": MAP}
    out = {"trace.out": MAP, "past.out": MAP}
    labels = _labels("green", "memory", "past_mean", "kept_more")
    files = {
        "warm.onnx": _graph(
            [*carried, *writes_key, *_labels("green", "memory", "constant", "constant")],
            trace,
            {**out, "kept.out": MAP},
            logits=4,
        ),
        "key.onnx": _graph(
            [*carried, *older, *writes_key, *_labels("green", "memory", "past_mean", "constant")],
            {**trace, **past},
            {**out, "kept.out": MAP},
            logits=4,
        ),
        "step.onnx": _graph(
            [*carried, *older, *reads_key, *labels],
            {**trace, **past, "kept.in": MAP},
            out,
            logits=4,
        ),
    }

    def compute(green: NDArray[np.float32], step: int, memory: dict[str, Any]) -> Any:
        if step == 0:
            memory.update(trace=np.zeros_like(green), greens=[])
        memory["trace"] = memory["trace"] / 2 + green
        blend = memory["trace"] / 2 + np.float32(0.25)
        past, is_key = memory["greens"], step < 2 or (step >= 4 and step % 4 == 0)
        mean = (past[-1] + past[-2]) / 2 if step >= 2 else _flat(green)
        if is_key:
            memory["kept"] = green
        kept = _flat(green) if is_key else memory["kept"] + np.float32(0.125)
        memory["greens"] = [*past, green]
        return np.stack([green, blend, mean, kept])

    both = ("labels", "logits")
    ages = {"past": (1, 2)}
    return Case(
        "mixed",
        "carry, ring and key in one schedule of three graphs whose rows overlap",
        state,
        {
            "warm": GraphSpec("warm.onnx", ("trace",), ("trace", "past", "kept"), both),
            "key": GraphSpec(
                "key.onnx", ("trace", "past"), ("trace", "past", "kept"), both, {"past": 2}
            ),
            "step": GraphSpec(
                "step.onnx", ("trace", "past", "kept"), ("trace", "past"), both, {"past": 2}
            ),
        },
        (
            ScheduleRow(0, "warm"),
            ScheduleRow(2, "step", ages=ages),
            ScheduleRow(4, "key", every=4, ages=ages),
        ),
        files,
        _of_green(compute),
        WITH_RESET,
        classes=4,
    )


def play(case: Case, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Random frames ``[steps, HEIGHT, WIDTH, 3]`` and labels ``[steps, HEIGHT, WIDTH]``."""
    rng = np.random.default_rng(seed)
    memory: dict[str, Any] = {}
    step, kept, frames, found = 0, {}, [], []
    for action in case.actions:
        verb, _, name = action.partition(" ")
        if verb == "reset":
            step = 0
        elif verb == "snapshot":
            kept[name] = (step, _copy(memory))
        elif verb == "restore":
            step, memory = kept[name][0], _copy(kept[name][1])
        else:
            frame, logits, memory = _draw(case, rng, step, memory)
            frames.append(frame)
            found.append(logits.argmax(0).astype(np.uint8))
            step += 1
    return np.stack(frames), np.stack(found)


def _draw(case: Case, rng: np.random.Generator, step: int, memory: dict[str, Any]) -> Any:
    """A frame without ties, its logits, and the memory after it; 128 is left out for the same."""
    while True:
        frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        frame[frame == 128] = 129
        after = _copy(memory)
        logits = case.compute(frame, step, after)
        best = np.sort(logits, axis=0)
        if case.margin == 0 or (best[-1] - best[-2]).min() > case.margin:
            return frame, logits, after


def _copy(memory: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, list) else v for k, v in memory.items()}


def _of_green(
    compute: Callable[[NDArray[np.float32], int, dict[str, Any]], NDArray[np.float32]],
) -> Compute:
    """A computation that reads the green plane alone."""
    return lambda frame, step, memory: compute(frame[..., 1].astype(np.float32), step, memory)


def _flat(like: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full_like(like, THRESHOLD)


def _node(operator: str, *inputs: str, out: str, **attributes: Any) -> Node:
    return helper.make_node(operator, list(inputs), [out], **attributes)


def _green() -> list[Node]:
    return [
        _node("Gather", "frame", "one", out="channel", axis=3),
        _node("Cast", "channel", out="float", to=TensorProto.FLOAT),
        _node("Transpose", "float", out="green", perm=[0, 3, 1, 2]),
        _node("Mul", "green", "zero", out="nothing"),
        _node("Add", "nothing", "threshold", out="constant"),
    ]


def _labels(*planes: str) -> list[Node]:
    return [
        _node("Concat", *planes, out="logits", axis=1),
        _node("ArgMax", "logits", out="best", axis=1, keepdims=0),
        _node("Cast", "best", out="labels", to=TensorProto.UINT8),
    ]


def _graph(
    nodes: Sequence[Node],
    reads: dict[str, Any],
    writes: dict[str, Any],
    *,
    logits: int | None = None,
) -> bytes:
    inputs = [
        helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3]),
        *(_value(name, shape) for name, shape in reads.items()),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH]),
        *([_value("logits", (1, logits, HEIGHT, WIDTH))] if logits else []),
        *(_value(name, shape) for name, shape in writes.items()),
    ]
    used = {name for node in nodes for name in node.input}
    numbers = {"zero": 0.0, "half": 0.5, "quarter": 0.25, "eighth": 0.125}
    numbers["threshold"] = float(THRESHOLD)
    constants = [helper.make_tensor("one", TensorProto.INT64, [1], [1])]
    constants += [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        for name, value in numbers.items()
        if name in used
    ]
    graph = helper.make_graph(list(nodes), "step", inputs, outputs, constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="streamseg"
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _value(name: str, shape: Any) -> Any:
    """A tensor by its shape, float32, or by ``(shape, type)``."""
    typed = isinstance(shape[0], tuple)
    extents, kind = shape if typed else (shape, TensorProto.FLOAT)
    return helper.make_tensor_value_info(name, kind, list(extents))


def _npy(array: Array) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

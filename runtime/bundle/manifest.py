"""The manifest: what a bundle says about itself, parsed and checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from streamseg.errors import BundleError, raised_as
from streamseg.runtime.bundle.fields import (
    Fields,
    mapping,
    name_text,
    number,
    one_of,
    require,
    series,
    text,
    unique_names,
    whole,
)
from streamseg.runtime.bundle.state import STATE_DTYPES, STATE_KINDS, StateSpec

FORMAT = 1
RESIZE_RULES = ("stretch", "letterbox")
MAX_CLASSES = 255  # label 255 means "no class"
MAX_EXTENT = 1 << 16
MAX_ELEMENTS = 1 << 31
MAX_SLOTS = 64
MAX_BATCH = 256
FILE_INIT = "file:"
SCENE_CUT = 15.0

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class FrameSpec:
    """The frame that the graphs take: uint8 ``[batch, height, width, 3]``.

    ``batch`` counts streams that one step serves; the first axis of every state does too.

    ``mean`` and ``std`` are on the 0..255 scale and applied inside the graph; they stand here for
    information and for re-export.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    color: str = "rgb"
    resize: str = "stretch"
    batch: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the graph's ``frame`` input."""
        return (self.batch, self.height, self.width, 3)


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file: the states it reads and writes, and its other outputs.

    ``ring_reads`` says at how many slots each ring in ``reads`` is read.
    """

    file: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    outputs: tuple[str, ...]
    ring_reads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleRow:
    """Which graph runs at a step, and how old the ring slots that it reads are.

    A row holds from step ``start`` on, for every ``every``-th step counted from there; where
    several rows hold, the last one in the table counts. ``ages`` gives, for each ring the graph
    reads, how many steps ago each slot was written, in the order of the graph's inputs.
    """

    start: int
    graph: str
    every: int = 1
    ages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def holds(self, step: int) -> bool:
        """Whether the row covers step number ``step``."""
        return step >= self.start and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class ClassInfo:
    """A class: label value, name and display colour (RGB)."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class PolicySpec:
    """When the state is to be forgotten, as far as that depends on the model and its footage.

    ``scene_cut`` is the score from which a frame begins a new scene (``runtime.policy.cuts``);
    bundles made before this field have the default.
    """

    scene_cut: float = SCENE_CUT


@dataclass(frozen=True)
class Manifest:
    """Everything that the runtime needs to know about a bundle.

    ``assumed`` lists settings of the network that its checkpoint does not give, with the published
    values that were taken.
    """

    model: Mapping[str, Any]
    frame: FrameSpec
    state: tuple[StateSpec, ...]
    graphs: Mapping[str, GraphSpec]
    schedule: tuple[ScheduleRow, ...]
    classes: tuple[ClassInfo, ...]
    files: Mapping[str, str]
    weights: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    precision: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    policy: PolicySpec = field(default_factory=PolicySpec)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fused_precision(self) -> str:
        """``bf16`` or ``int8-dynamic`` where temporal layers or attention are operators."""
        return str(self.precision.get("temporal", self.precision.get("attention", "")))

    @property
    def precision_name(self) -> str:
        """``fp32``, ``fp16``, ``int8``, ``int8+fp16``; ``[int8+]PRECISION`` of fused operators."""
        if fused := self.fused_precision:
            return f"int8+{fused}" if self.precision.get("layers") == "int8" else fused
        layers, rest = (str(self.precision.get(part, "float32")) for part in ("layers", "rest"))
        if layers == "int8" and rest == "float16":
            return "int8+fp16"
        return {"float32": "fp32", "float16": "fp16"}.get(layers, layers)

    def state_named(self, name: str) -> StateSpec:
        """The row of the state table called ``name``."""
        return next(spec for spec in self.state if spec.name == name)

    def row_at(self, step: int) -> ScheduleRow:
        """The schedule row that covers step number ``step`` (frames since reset)."""
        return next(row for row in reversed(self.schedule) if row.holds(step))

    def to_json(self) -> str:
        """The manifest as JSON text that ``parse_manifest`` reads back."""
        frame = {
            "shape": list(self.frame.shape),
            "dtype": "uint8",
            "color": self.frame.color,
            "mean": list(self.frame.mean),
            "std": list(self.frame.std),
            "resize": self.frame.resize,
        }
        content = {
            "format": FORMAT,
            "model": dict(self.model),
            "frame": frame,
            "state": [asdict(spec) for spec in self.state],
            "graphs": {name: _graph_json(graph) for name, graph in self.graphs.items()},
            "schedule": [_row_json(row) for row in self.schedule],
            "classes": [asdict(entry) for entry in self.classes],
            "weights": dict(self.weights),
            "parity": dict(self.parity),
            **({"precision": dict(self.precision)} if self.precision else {}),
            **({"assumed": dict(self.assumed)} if self.assumed else {}),
            "files": dict(self.files),
            "made_by": dict(self.made_by),
            "policy": asdict(self.policy),
            **self.extra,
        }
        return json.dumps(content, indent=1) + "\n"


def _graph_json(graph: GraphSpec) -> dict[str, Any]:
    content = asdict(graph)
    if not graph.ring_reads:
        del content["ring_reads"]
    return content


def _row_json(row: ScheduleRow) -> dict[str, Any]:
    content: dict[str, Any] = {"from": row.start, "graph": row.graph}
    if row.every != 1:
        content["every"] = row.every
    if row.ages:
        content["ages"] = {name: list(ages) for name, ages in row.ages.items()}
    return content


def parse_manifest(text: str) -> Manifest:
    """Read manifest JSON.

    Raises:
        BundleError: not JSON, a newer format, or a field that is missing or out of range; the
            message names the field, what it holds and what was expected.
    """
    try:
        content = json.loads(text)
        # A lone surrogate, which JSON can spell, fails wherever the text is printed or written.
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not valid JSON: {error}") from None
    with raised_as(BundleError, "manifest.json"):
        return _parse(content)


def _parse(content: Any) -> Manifest:
    root = Fields(content, "")
    version = root.get("format", whole(0, 1 << 31))
    if version != FORMAT:
        raise BundleError(
            f"the bundle has format {version}, this streamseg reads format {FORMAT}; "
            "export it again or install a newer streamseg"
        )
    manifest = Manifest(
        model=root.get("model", mapping),
        frame=_read_frame(root.object("frame")),
        state=tuple(_read_state(entry) for entry in root.objects("state")),
        graphs={name: _read_graph(entry) for name, entry in root.named_objects("graphs")},
        schedule=tuple(_read_row(entry) for entry in root.objects("schedule")),
        classes=tuple(_read_class(entry) for entry in root.objects("classes")),
        files=root.get("files", _digests),
        weights=root.get("weights", mapping, {}),
        parity=root.get("parity", mapping, {}),
        precision=root.get("precision", mapping, {}),
        made_by=root.get("made_by", mapping, {}),
        assumed=root.get("assumed", mapping, {}),
        policy=_read_policy(Fields(root.get("policy", mapping, dict[str, Any]()), "policy.")),
        extra={name: value for name, value in content.items() if name not in _KNOWN},
    )
    _check_references(manifest)
    return manifest


_KNOWN = frozenset(
    ("format", "model", "frame", "state", "graphs", "schedule")
    + ("classes", "weights", "parity", "precision", "assumed", "files", "made_by", "policy")
)


def inner_path(value: Any) -> str:
    """Check a path of the manifest: relative, inside the bundle, written plainly."""
    if not isinstance(value, str) or not value or not value.isprintable() or "\\" in value:
        raise ValueError("a path inside the bundle")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or str(path) != value:
        raise ValueError("a plain relative path inside the bundle")
    return value


def _init(value: Any) -> str:
    if isinstance(value, str) and value.startswith(FILE_INIT):
        inner_path(value[len(FILE_INIT) :])
        return value
    return one_of("zeros", "unset")(value)


def _digests(value: Any) -> dict[str, str]:
    for name, digest in mapping(value).items():
        inner_path(name)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"'sha256:' and 64 hex digits for {name}")
    return dict(value)


def _shape(value: Any) -> tuple[int, ...]:
    shape = series(whole(1, MAX_ELEMENTS))(value)
    elements = 1
    for extent in shape:
        elements *= extent
    if not 1 <= len(shape) <= 8 or elements > MAX_ELEMENTS:
        raise ValueError(f"1 to 8 extents with a product of at most {MAX_ELEMENTS}")
    return shape


def _frame_shape(value: Any) -> tuple[int, int, int]:
    shape = series(whole(1, MAX_EXTENT), 4)(value)
    if shape[0] > MAX_BATCH or shape[3] != 3:
        raise ValueError(f"[batch, height, width, 3], a batch of 1 to {MAX_BATCH}")
    return shape[0], shape[1], shape[2]


def _triple(value: Any) -> tuple[float, float, float]:
    first, second, third = series(number, 3)(value)
    return first, second, third


def _levels(value: Any) -> tuple[float, float, float]:
    levels = _triple(value)
    if not all(0 <= level <= 255 for level in levels):
        raise ValueError("three numbers from 0 to 255")
    return levels


def _scales(value: Any) -> tuple[float, float, float]:
    scales = _triple(value)
    if not all(scale > 0 for scale in scales):
        raise ValueError("three numbers above 0")
    return scales


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = series(whole(0, 255), 3)(value)
    return red, green, blue


def _read_frame(fields: Fields) -> FrameSpec:
    batch, height, width = fields.get("shape", _frame_shape)
    fields.get("dtype", one_of("uint8"))
    return FrameSpec(
        height=height,
        width=width,
        color=fields.get("color", one_of("rgb")),
        mean=fields.get("mean", _levels),
        std=fields.get("std", _scales),
        resize=fields.get("resize", one_of(*RESIZE_RULES)),
        batch=batch,
    )


def _read_state(fields: Fields) -> StateSpec:
    return StateSpec(
        name=fields.get("name", name_text),
        shape=fields.get("shape", _shape),
        dtype=fields.get("dtype", one_of(*STATE_DTYPES)),
        init=fields.get("init", _init),
        kind=fields.get("kind", one_of(*STATE_KINDS)),  # type: ignore[arg-type]
        slots=fields.get("slots", whole(1, MAX_SLOTS), 1),
    )


def _read_graph(fields: Fields) -> GraphSpec:
    reads: dict[str, Any] = fields.get("ring_reads", mapping, {})
    return GraphSpec(
        file=fields.get("file", inner_path),
        reads=fields.get("reads", unique_names),
        writes=fields.get("writes", unique_names),
        outputs=fields.get("outputs", unique_names),
        ring_reads={
            name: require(count, whole(1, MAX_SLOTS), f"{fields.where}ring_reads.{name}")
            for name, count in reads.items()
        },
    )


def _read_row(fields: Fields) -> ScheduleRow:
    ages: dict[str, Any] = fields.get("ages", mapping, {})
    return ScheduleRow(
        start=fields.get("from", whole(0, 1 << 31)),
        graph=fields.get("graph", name_text),
        every=fields.get("every", whole(1, 1 << 31), 1),
        ages={
            name: require(entry, series(whole(1, MAX_SLOTS)), f"{fields.where}ages.{name}")
            for name, entry in ages.items()
        },
    )


def _read_class(fields: Fields) -> ClassInfo:
    return ClassInfo(
        id=fields.get("id", whole(0, MAX_CLASSES - 1)),
        name=fields.get("name", text),
        color=fields.get("color", _color),
    )


def _score(value: Any) -> float:
    if not 0 < number(value) <= 255:
        raise ValueError("a number above 0, at most 255")
    return float(value)


def _read_policy(fields: Fields) -> PolicySpec:
    return PolicySpec(scene_cut=fields.get("scene_cut", _score, SCENE_CUT))


def _check_references(manifest: Manifest) -> None:
    """Raise BundleError where the parts of a manifest contradict each other."""
    table = {spec.name: spec for spec in manifest.state}
    if len(table) != len(manifest.state):
        raise BundleError("manifest.json: 'state' names a tensor twice")
    for spec in manifest.state:
        if spec.kind != "ring" and spec.slots != 1:
            raise BundleError(f"manifest.json: state '{spec.name}' has slots but is not a ring")
        _check_init(spec, manifest.files)
    if manifest.frame.batch > 1:
        _check_batch(manifest)
    ids = [entry.id for entry in manifest.classes]
    if ids != list(range(len(ids))) or not ids:
        raise BundleError("manifest.json: 'classes' must list the ids 0, 1, 2, ... in order")
    if not manifest.graphs:
        raise BundleError("manifest.json: 'graphs' is empty")
    for name, graph in manifest.graphs.items():
        _check_graph(name, graph, table, manifest.files)
    for row in manifest.schedule:
        _check_row(row, manifest.graphs, table)
    if not any(row.start == 0 and row.every == 1 for row in manifest.schedule):
        raise BundleError("manifest.json: 'schedule' leaves steps without a graph")


def _check_batch(manifest: Manifest) -> None:
    """Raise BundleError where streams of a batch could not keep to one graph and one clock."""
    count = manifest.frame.batch
    if len(manifest.graphs) > 1:
        raise BundleError(f"manifest.json: a batch of {count} streams has several graphs")
    for spec in manifest.state:
        if spec.kind != "carry" or spec.shape[0] % count:
            raise BundleError(
                f"manifest.json: state '{spec.name}' of kind '{spec.kind}' and shape "
                f"{list(spec.shape)} is not carried by each of {count} streams"
            )


def _check_init(spec: StateSpec, files: Mapping[str, str]) -> None:
    if (spec.init == "zeros") == (spec.kind == "given"):
        raise BundleError(
            f"manifest.json: state '{spec.name}' of kind '{spec.kind}' has init '{spec.init}'"
        )
    path = spec.init.removeprefix(FILE_INIT)
    if spec.init.startswith(FILE_INIT) and path not in files:
        raise BundleError(f"manifest.json: state '{spec.name}' has no SHA-256 for {path}")


def _check_graph(
    name: str, graph: GraphSpec, table: Mapping[str, StateSpec], files: Mapping[str, str]
) -> None:
    for state in (*graph.reads, *graph.writes):
        if state not in table:
            raise BundleError(f"manifest.json: graph '{name}' uses state '{state}' of no table row")
    if graph.file not in files:
        raise BundleError(f"manifest.json: graph '{name}' has no SHA-256 for {graph.file}")
    if "labels" not in graph.outputs or not set(graph.outputs) <= {"labels", "logits"}:
        raise BundleError(
            f"manifest.json: graph '{name}' outputs {list(graph.outputs)}, "
            "expected labels and perhaps logits"
        )
    rings = {state for state in graph.reads if table[state].kind == "ring"}
    if rings != set(graph.ring_reads):
        raise BundleError(
            f"manifest.json: graph '{name}' must give 'ring_reads' for its rings only"
        )
    for spec in table.values():
        # Buffers of both kinds are chosen by the step counter, so a step that skips one would
        # leave the next step reading old state.
        if spec.kind == "given" and spec.name in graph.writes:
            raise BundleError(f"manifest.json: graph '{name}' writes '{spec.name}', which is given")
        if spec.kind in ("carry", "ring") and spec.name not in graph.writes:
            raise BundleError(f"manifest.json: graph '{name}' does not write '{spec.name}'")
        if spec.kind == "carry" and spec.name not in graph.reads:
            raise BundleError(f"manifest.json: graph '{name}' does not read '{spec.name}'")
        if spec.kind == "key" and spec.name in graph.reads and spec.name in graph.writes:
            raise BundleError(f"manifest.json: graph '{name}' reads and writes '{spec.name}'")


def _check_row(
    row: ScheduleRow, graphs: Mapping[str, GraphSpec], table: Mapping[str, StateSpec]
) -> None:
    if row.graph not in graphs:
        raise BundleError(f"manifest.json: the schedule names graph '{row.graph}' of no entry")
    graph = graphs[row.graph]
    if set(row.ages) != set(graph.ring_reads):
        raise BundleError(
            f"manifest.json: the schedule row from {row.start} must give 'ages' for the rings of "
            f"graph '{row.graph}'"
        )
    for name, ages in row.ages.items():
        # A slot that is written in the same step must not be read: its age would be `slots`.
        limit = table[name].slots - (1 if name in graph.writes else 0)
        if len(ages) != graph.ring_reads[name] or not ages or max(ages) > limit:
            raise BundleError(
                f"manifest.json: the schedule row from {row.start} reads '{name}' at ages "
                f"{list(ages)}, expected {graph.ring_reads[name]} of at most {limit}"
            )
        if max(ages) > row.start:
            raise BundleError(
                f"manifest.json: the schedule row from {row.start} reads '{name}' at age "
                f"{max(ages)}, before anything was written there"
            )

"""TensorRT engines on disk: what one was built for, and the checks before it is opened.

An engine is executable code. It is built on the machine that runs it, lives outside bundles, and is
opened only when its sidecar fits graph, TensorRT, GPU and plugins, and its bytes are those built.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from streamseg.counting import count_of
from streamseg.errors import BackendError, EngineMismatch
from streamseg.files import make_folder, whole_file
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.bundle.bundle import digest

FORMAT = 2
FLAVOURS = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Verification:
    """How the engines of a bundle compared with ONNX Runtime on the CPU, with state.

    Attributes:
        passed: the bars were reached.
        conclusive: enough classes were in the frames, and there was a bar for the labels.
        frames: number of steps.
        source: what the frames were.
        classes: number of classes that covered one per cent of the pixels or more.
        ties: share of pixels left out, where two classes are equally likely.
        labels: share of labels that agree; of the worst frame, for INT8 of all frames.
        labels_bar: the least that passes.
        state: largest relative error of a state after any step.
        logits: largest relative error of a frame's logits; 0 where the bundle has none.
        error_bar: the most that passes, of either.
        reference: the runtime that was compared with.
    """

    passed: bool
    conclusive: bool
    frames: int
    source: str
    classes: int
    ties: float
    labels: float
    labels_bar: float
    state: float
    logits: float
    error_bar: float
    reference: str

    def describe(self) -> str:
        """The measured figures, for messages."""
        text = (
            f"{self.labels:.3%} of labels agree with {self.reference} (at least "
            f"{self.labels_bar:.1%} wanted), state differs by {self.state:.1e} of its size, logits "
            f"by {self.logits:.1e} (at most {self.error_bar:.0e}), over "
            f"{count_of(self.frames, 'frame')} of "
            f"{self.source}"
        )
        return (
            text
            if self.conclusive
            else f"{text}; not conclusive: {count_of(self.classes, 'class')} seen"
        )


@dataclass(frozen=True)
class EngineRecord:
    """The sidecar of an engine.

    Attributes:
        graph: name of the bundle's graph.
        graph_sha256: of the bundle's ONNX file.
        flavour: ``tensorrt`` or ``tensorrt_rtx``.
        version: of that TensorRT.
        gpu: name of the GPU; empty for RTX, whose engines are portable.
        capabilities: compute capabilities that the engine runs on.
        driver: CUDA version of the driver at the build; empty where there was none.
        precision: of the graph.
        plugins_sha256: of the plugin library; empty when the engine was built from the lowering.
        engine_sha256: of the engine's bytes.
        tf32: float32 products were allowed to round their inputs to TF32.
        verification: how it compared with ONNX Runtime; ``None`` where that was never done.
        board: power mode, clocks and throttling at the build, where the machine reports them.
        build_seconds: how long the builder took; 0 where that was not recorded.
    """

    graph: str
    graph_sha256: str
    flavour: str
    version: str
    gpu: str
    capabilities: tuple[str, ...]
    driver: str
    precision: str
    plugins_sha256: str
    engine_sha256: str
    tf32: bool = False
    verification: Verification | None = None
    board: Mapping[str, str] = field(default_factory=dict)
    build_seconds: float = 0.0

    @property
    def key(self) -> str:
        """Folder name in the cache: what the engine was built for."""
        measured = ("engine_sha256", "verification", "board", "build_seconds")
        fields = {name: value for name, value in asdict(self).items() if name not in measured}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]

    def to_json(self, previous: EngineRecord | None = None) -> str:
        """Content of the sidecar file; ``previous`` is that of an engine that is being replaced."""
        content: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        if previous is not None:
            content["previous"] = {"format": FORMAT, **asdict(previous)}
        return json.dumps(content, indent=2) + "\n"


@dataclass(frozen=True)
class Machine:
    """What an engine must fit: the TensorRT at hand, the GPU, the plugin library's SHA-256."""

    flavour: str
    version: str
    gpu: Gpu | None
    plugins_sha256: str


def engine_cache() -> Path:
    """``$XDG_CACHE_HOME/streamseg/engines``, where engines live unless the user says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "streamseg" / "engines"


def sidecar_of(engine: Path) -> Path:
    """Where an engine's record lies."""
    return engine.with_suffix(".json")


def write_engine(path: Path, content: bytes, record: EngineRecord) -> None:
    """Write engine and sidecar, each whole, so that a kill in between leaves a pair that fits.

    The sidecar comes first and describes the engine that is still there, too, until the new one is.

    Raises:
        BackendError: one cannot be written; the engine is as it was.
    """
    make_folder(path.parent, BackendError)
    before: EngineRecord | None = None
    if path.is_file():
        with contextlib.suppress(EngineMismatch, OSError):
            before = _record_of(path, digest(path.read_bytes()))
    if before is not None and before.engine_sha256 != record.engine_sha256:
        _write_whole(sidecar_of(path), record.to_json(previous=before).encode())
        _write_whole(path, content)
        _write_whole(sidecar_of(path), record.to_json().encode())
        return
    _write_whole(sidecar_of(path), record.to_json().encode())
    _write_whole(path, content)


def _write_whole(path: Path, content: bytes) -> None:
    with whole_file(path, BackendError) as draft:
        draft.write_bytes(content)


def read_record(path: Path) -> EngineRecord:
    """Parse an engine's sidecar; of two records, that of the engine that is there.

    Raises:
        EngineMismatch: there is none, or it is damaged.
    """
    records = _read_records(path)
    if len(records) == 1 or not path.is_file():
        return records[0]
    return _record_of(path, digest(path.read_bytes()))


def _record_of(path: Path, engine_sha256: str) -> EngineRecord:
    """The record of an engine with that digest, or the newest where neither is."""
    records = _read_records(path)
    return next((one for one in records if one.engine_sha256 == engine_sha256), records[0])


def _read_records(path: Path) -> list[EngineRecord]:
    """The newest record, and the one before where an engine was being replaced."""
    sidecar = sidecar_of(path)
    try:
        document = json.loads(sidecar.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineMismatch(
            f"engine {path} has no readable sidecar {sidecar.name} ({error.strerror}), so nothing "
            f"says what it was built for. {_rebuild()}"
        ) from None
    except (ValueError, RecursionError):
        raise EngineMismatch(f"sidecar {sidecar} is not valid JSON. {_rebuild()}") from None
    records = [_parse(document, sidecar)]
    if "previous" in document:
        records.append(_parse(document["previous"], sidecar))
    return records


def _parse(document: Any, sidecar: Path) -> EngineRecord:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise EngineMismatch(f"sidecar {sidecar} is not of format {FORMAT}. {_rebuild()}")
    fields = {name: document.get(name) for name in EngineRecord.__dataclass_fields__}
    listed, tf32, board = (fields.pop(name) for name in ("capabilities", "tf32", "board"))
    verification = fields.pop("verification")
    seconds = fields.pop("build_seconds") or 0.0
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise EngineMismatch(
            f"sidecar {sidecar}: 'capabilities' is not a list of text. {_rebuild()}"
        )
    for name, value in fields.items():
        if not isinstance(value, str):
            raise EngineMismatch(f"sidecar {sidecar}: '{name}' is not a text. {_rebuild()}")
    if not isinstance(tf32, bool) or not isinstance(board, dict) or not _holds_text(board):
        raise EngineMismatch(f"sidecar {sidecar}: 'tf32' or 'board' is invalid. {_rebuild()}")
    if not isinstance(seconds, (int, float)):
        raise EngineMismatch(f"sidecar {sidecar}: 'build_seconds' is not a number. {_rebuild()}")
    return EngineRecord(
        capabilities=tuple(listed),
        tf32=tf32,
        verification=_parse_verification(verification, sidecar),
        board=board,
        build_seconds=seconds,
        **fields,  # type: ignore[arg-type]
    )


def _holds_text(values: Mapping[str, Any]) -> bool:
    return all(isinstance(entry, str) for entry in values.values())


def _parse_verification(document: Any, sidecar: Path) -> Verification | None:
    if document is None:
        return None
    kinds = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}
    wanted = {entry.name: kinds[str(entry.type)] for entry in fields_of(Verification)}
    if not isinstance(document, dict) or set(document) != set(wanted):
        raise EngineMismatch(f"sidecar {sidecar}: 'verification' is invalid. {_rebuild()}")
    for name, types in wanted.items():
        value = document[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise EngineMismatch(
                f"sidecar {sidecar}: verification '{name}' is {value!r}, expected "
                f"{types[-1].__name__}. {_rebuild()}"
            )
    return Verification(**document)


def read_engine(path: Path, *, graph: bytes, machine: Machine, bundle: str = "BUNDLE") -> bytes:
    """Read an engine after checking everything that its sidecar says.

    Args:
        path: the engine file; its sidecar lies beside it.
        graph: ONNX bytes of the graph that it must have been built from.
        machine: what is here.
        bundle: named in the command that rebuilds.
    Raises:
        EngineMismatch: it was built from another graph, for another TensorRT, GPU or plugin
            library, or its bytes are not those built.
    """
    record = read_record(path)
    check_record(record, path, graph=graph, machine=machine, bundle=bundle)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineMismatch(f"engine {path}: {error.strerror}. {_rebuild(bundle)}") from None
    if digest(content) != record.engine_sha256:
        raise EngineMismatch(
            f"engine {path} ({len(content):,} bytes) has {digest(content)[:19]}..., its sidecar "
            f"says {record.engine_sha256[:19]}...: it was cut short or changed. {_rebuild(bundle)}"
        )
    return content


def check_record(
    record: EngineRecord, path: Path, *, graph: bytes, machine: Machine, bundle: str = "BUNDLE"
) -> None:
    """Raise EngineMismatch unless an engine's record fits graph and machine."""
    rebuild = _rebuild(bundle)
    if record.graph_sha256 != digest(graph):
        raise EngineMismatch(
            f"{path} was built from graph '{record.graph}' with {record.graph_sha256[:19]}..., the "
            f"bundle's has {digest(graph)[:19]}...: the bundle was exported again since. {rebuild}"
        )
    if (record.flavour, record.version) != (machine.flavour, machine.version):
        raise EngineMismatch(
            f"{path} was built with {record.flavour} {record.version}; this machine has "
            f"{machine.flavour} {machine.version}. {rebuild}"
        )
    if machine.gpu is None:
        raise EngineMismatch(
            f"{path} was built for {_target(record)}; no NVIDIA GPU was "
            "found on this machine. Run: streamseg doctor"
        )
    other_gpu = record.flavour == "tensorrt" and record.gpu != machine.gpu.name
    if machine.gpu.capability not in record.capabilities or other_gpu:
        raise EngineMismatch(
            f"{path} was built for {_target(record)}; this machine has {machine.gpu.label}. "
            f"{rebuild}"
        )
    if _number(machine.gpu.driver) < _number(record.driver):
        raise EngineMismatch(
            f"{path} was built where the driver supports CUDA {record.driver}; the one here is "
            f"older and supports {machine.gpu.driver}. {rebuild}"
        )
    if record.plugins_sha256 and record.plugins_sha256 != machine.plugins_sha256:
        raise EngineMismatch(
            f"{path} was built with plugin library {record.plugins_sha256[:12]}..., the one here "
            f"is {machine.plugins_sha256[:12] or 'missing'}. {rebuild}"
        )


def find_engines(
    graphs: Mapping[str, bytes],
    *,
    machine: Machine,
    place: Path | None = None,
    bundle: str,
) -> dict[str, Path]:
    """The engines of a bundle's graphs that fit this machine; their bytes are not checked yet.

    All are of one build: graphs of different precisions, or with and without our plugins, are
    never mixed, for they share their state.

    Args:
        graphs: the bundle's graphs by name, as ONNX bytes.
        machine: what is here.
        place: an engine file, or the folder that ``streamseg build --out`` wrote; ``None``
            searches the cache, where engines with plugins are preferred, then the newest.
        bundle: named in the command that builds.
    Raises:
        EngineMismatch: one is missing, those that there are fit something else, or no precision
            has an engine of every graph.
    """
    if place is not None:
        return _engines_in(place, graphs, bundle)
    found = {name: _fitting(name, content, machine, bundle) for name, content in graphs.items()}
    common = set.intersection(*(set(builds) for builds in found.values()))
    if not common:
        listed = {name: sorted({build[0] for build in builds}) for name, builds in found.items()}
        raise EngineMismatch(
            f"the graphs of {bundle} have engines of different builds ({listed}), and they share "
            f"their state. {_rebuild(bundle)}"
        )
    best = max(
        common,
        key=lambda build: (
            bool(build[1]),
            max(found[name][build].stat().st_mtime for name in found),
        ),
    )
    return {name: builds[best] for name, builds in found.items()}


# Precision, plugin library and TF32: what the engines of a bundle must have in common.
_Build = tuple[str, str, bool]


def _build_of(record: EngineRecord) -> _Build:
    return record.precision, record.plugins_sha256, record.tf32


def _engines_in(place: Path, graphs: Mapping[str, bytes], bundle: str) -> dict[str, Path]:
    found = {name: place / f"{name}.engine" if place.is_dir() else place for name in graphs}
    for path in found.values():
        if not path.is_file():
            raise EngineMismatch(f"engine {path} is missing. {_rebuild(bundle)} --out FOLDER")
    precisions = {name: read_record(path).precision for name, path in found.items()}
    if len({_build_of(read_record(path)) for path in found.values()}) > 1:
        told = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
        raise EngineMismatch(
            f"the engines in {place} are of different builds ({told}), and they share their state. "
            f"{_rebuild(bundle)} --out {place}"
        )
    return found


def _fitting(graph: str, content: bytes, machine: Machine, bundle: str) -> dict[_Build, Path]:
    """The newest engine of every build of a graph in the cache that fits this machine."""
    wrong: EngineMismatch | None = None
    fitting: dict[_Build, Path] = {}
    for path in sorted(engine_cache().glob(f"*/{graph}.engine"), key=lambda p: p.stat().st_mtime):
        try:
            record = read_record(path)
            if record.graph_sha256 != digest(content):
                continue
            check_record(record, path, graph=content, machine=machine, bundle=bundle)
        except EngineMismatch as error:
            wrong = error
            continue
        fitting[_build_of(record)] = path
    if fitting:
        return fitting
    if wrong is not None:
        raise wrong
    raise EngineMismatch(
        f"no engine of graph '{graph}' was built for {bundle} in {engine_cache()}. "
        f"{_rebuild(bundle)}"
    )


def _number(version: str) -> tuple[int, ...]:
    """``12.6`` in a form that compares; empty where there was no driver."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))


def _target(record: EngineRecord) -> str:
    capabilities = ", ".join(record.capabilities)
    return f"'{record.gpu}' ({capabilities})" if record.gpu else f"compute {capabilities}"


def _rebuild(bundle: str = "BUNDLE") -> str:
    return f"Run: streamseg build {bundle}"

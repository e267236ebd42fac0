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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamseg.errors import BackendError, EngineMismatch
from streamseg.files import make_folder, whole_file
from streamseg.runtime.backends.gpu import Gpu
from streamseg.runtime.bundle.bundle import digest

FORMAT = 1
FLAVOURS = ("tensorrt", "tensorrt_rtx")


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

    @property
    def key(self) -> str:
        """Folder name in the cache: everything but the engine's own bytes."""
        fields = {name: value for name, value in asdict(self).items() if name != "engine_sha256"}
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
    names = set(EngineRecord.__dataclass_fields__)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise EngineMismatch(f"sidecar {sidecar} is not of format {FORMAT}. {_rebuild()}")
    fields = {name: document.get(name) for name in names}
    listed = fields.pop("capabilities")
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise EngineMismatch(f"sidecar {sidecar}: 'capabilities' is no list of text. {_rebuild()}")
    for name, value in fields.items():
        if not isinstance(value, str):
            raise EngineMismatch(f"sidecar {sidecar}: '{name}' is no text. {_rebuild()}")
    return EngineRecord(capabilities=tuple(listed), **fields)  # type: ignore[arg-type]


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
            f"{path} was built for {_target(record)}; this machine has no GPU that its driver "
            "tells of. Run: streamseg doctor"
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


def find_engine(
    graph: str, *, content: bytes, machine: Machine, place: Path | None = None, bundle: str
) -> Path:
    """The engine of a graph that fits this machine; its bytes are not checked yet.

    Args:
        graph: name of the bundle's graph.
        content: its ONNX bytes.
        machine: what is here.
        place: an engine file, or the folder that ``streamseg build --engine`` wrote; ``None``
            searches the cache, where an engine with plugins is preferred to one without.
        bundle: named in the command that builds.
    Raises:
        EngineMismatch: there is none, or those that there are fit something else.
    """
    if place is not None:
        path = place / f"{graph}.engine" if place.is_dir() else place
        if not path.is_file():
            raise EngineMismatch(f"engine {path} is not there. {_rebuild(bundle)} --engine FOLDER")
        return path
    wrong: EngineMismatch | None = None
    fitting: list[tuple[bool, float, Path]] = []
    for path in sorted(engine_cache().glob(f"*/{graph}.engine")):
        try:
            record = read_record(path)
            if record.graph_sha256 != digest(content):
                continue
            check_record(record, path, graph=content, machine=machine, bundle=bundle)
        except EngineMismatch as error:
            wrong = error
            continue
        fitting.append((bool(record.plugins_sha256), path.stat().st_mtime, path))
    if fitting:
        return max(fitting)[2]
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

"""Write a static site that runs a bundle in the browser, without any server of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from streamseg.errors import ExportError
from streamseg.export.graph_parts import KernelPart, Part, SessionPart, split_graph
from streamseg.runtime.bundle.bundle import Bundle, digest
from streamseg.web.onnxruntime_package import VERSION, WASM_FILES, WEBGPU_FILES

PARTS = "web.json"
CONSTANTS = "web/constants.bin"
NOTICE = f"ONNX Runtime Web {VERSION}, Copyright (c) Microsoft Corporation, MIT License.\n"
KINDS = {"WindowedCausalConv": "conv", "WindowedSelectiveScan": "scan"}


@dataclass(frozen=True)
class Site:
    """What was written: its folder, its size in bytes, and the operators that run as kernels."""

    path: Path
    size: int
    kernels: int


def write_site(bundle: Bundle, out: Path, package: Path, *, webgpu: bool = False) -> Site:
    """Write page, runtime, ONNX Runtime and bundle into ``out``, which must not exist or be empty.

    Args:
        bundle: in float32 or INT8.
        out: folder of the site.
        package: folder of the ``onnxruntime-web`` package.
        webgpu: also copy ONNX Runtime's build for graphics cards (27 MB more).

    Raises:
        ExportError: ``out`` holds something, the package lacks a file, or a graph cannot be cut.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder; choose another -o")
    parts = {name: split_graph(parse_graph(content)) for name, content in bundle.graphs.items()}
    out.mkdir(parents=True, exist_ok=True)
    _copy_runtime(out, package, webgpu=webgpu)
    _copy_bundle(bundle, out / "bundle")
    _write_parts(parts, out / "bundle")
    kernels = sum(isinstance(part, KernelPart) for graph in parts.values() for part in graph)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Site(out, size, kernels)


def parse_graph(content: bytes) -> onnx.ModelProto:
    """A graph of a bundle."""
    return onnx.load_from_string(content)


def _copy_runtime(out: Path, package: Path, *, webgpu: bool) -> None:
    own = files("streamseg.web")
    for folder in ("page", "dist"):
        target = out if folder == "page" else out / "streamseg"
        target.mkdir(exist_ok=True)
        for entry in (own / folder).iterdir():
            if entry.name.endswith((".js", ".html", ".css")):
                (target / entry.name).write_bytes(entry.read_bytes())
    (out / "streamseg/kernels.wasm").write_bytes((own / "kernels.wasm").read_bytes())
    (out / "ort").mkdir()
    for name in (*WASM_FILES, *(WEBGPU_FILES if webgpu else ())):
        source = package / name
        if not source.is_file():
            raise ExportError(f"{package} has no {name}; give the folder of onnxruntime-web")
        shutil.copyfile(source, out / "ort" / source.name)
    (out / "ort/NOTICE.txt").write_text(NOTICE, encoding="utf-8")


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    for name in ("manifest.json", *bundle.manifest.files):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, target)


def _write_parts(graphs: Mapping[str, list[Part]], folder: Path) -> None:
    """Write the stretches as ONNX files, the constants as one file, and what binds them."""
    (folder / "web").mkdir()
    blob = bytearray()
    hashes: dict[str, str] = {}
    described = {}
    for graph, parts in graphs.items():
        described[graph] = [
            _session(part, folder, f"web/{graph}.{i}.onnx", hashes)
            if isinstance(part, SessionPart)
            else _kernel(part, blob)
            for i, part in enumerate(parts)
        ]
    (folder / CONSTANTS).write_bytes(blob)
    hashes[CONSTANTS] = digest(bytes(blob))
    content = {"format": 1, "constants": CONSTANTS, "graphs": described, "files": hashes}
    (folder / PARTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _session(part: SessionPart, folder: Path, name: str, hashes: dict[str, str]) -> dict[str, Any]:
    content = part.model.SerializeToString()
    (folder / name).write_bytes(content)
    hashes[name] = digest(content)
    return {"kind": "session", "file": name, "inputs": part.inputs, "outputs": part.outputs}


def _kernel(part: KernelPart, blob: bytearray) -> dict[str, Any]:
    places = {}
    for name, array in part.constants.items():
        places[name] = {"offset": len(blob) // 4, "count": int(array.size)}
        blob += np.ascontiguousarray(array, np.float32).tobytes()
    wide = part.constants["weight" if part.operator == "WindowedCausalConv" else "A"]
    return {
        "kind": KINDS[part.operator],
        "geometry": dict(part.geometry),
        "channels": wide.shape[0],
        "depth": wide.shape[1],
        "inputs": part.inputs,
        "outputs": part.outputs,
        "constants": places,
    }

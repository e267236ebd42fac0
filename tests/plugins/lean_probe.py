"""Asks a lean TensorRT about our plugin library; run in a process of its own, prints JSON.

A process of its own because a runtime without a driver may end in a segmentation fault.
Usage: python lean_probe.py FOLDER_OF_THE_BINDINGS PLUGIN_LIBRARY FILE_THAT_IS_NO_LIBRARY NAMES
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

folder, library, no_library, names_used = sys.argv[1:]
sys.path.insert(0, folder)
import tensorrt_lean_bindings as trt  # noqa: E402

from streamseg.errors import BackendError  # noqa: E402
from streamseg.runtime.backends.tensorrt_library import load_plugins  # noqa: E402

GEOMETRY = {"map_h": 8, "map_w": 12, "window_h": 4, "window_w": 4, "offset_h": 2, "offset_w": 2}
FIELDS = {
    "WindowedCausalConv": GEOMETRY,
    "WindowedSelectiveScan": GEOMETRY,
    "UpsampleArgmax": {"height": 64, "width": 96},
}


def create(creator: Any, fields: dict[str, Any], phase: Any) -> Any:
    kinds = {"int32": trt.PluginFieldType.INT32, "float32": trt.PluginFieldType.FLOAT32}
    values = {name: np.atleast_1d(np.asarray(value)) for name, value in fields.items()}
    values = {k: v.astype(np.int32) if v.dtype.kind == "i" else v for k, v in values.items()}
    listed = [trt.PluginField(k, v, kinds[v.dtype.name]) for k, v in values.items()]
    try:
        return creator.create_plugin("probe", trt.PluginFieldCollection(listed), phase)
    except Exception as error:
        return print(f"refused: {error}", file=sys.stderr)


def refusals(creator: Any, fields: dict[str, Any]) -> dict[str, bool]:
    """Whether each kind of wrong field is refused."""
    first, *rest = fields
    wrong = {
        "missing": {name: fields[name] for name in rest},
        "two numbers": {**fields, first: [1, 2]},
        "float": {**fields, first: np.float32(8)},
        "out of range": {**fields, first: -1},
    }
    build = trt.TensorRTPhase.BUILD
    return {name: create(creator, entry, build) is None for name, entry in wrong.items()}


def describe(name: str, registry: Any) -> dict[str, Any]:
    creator = registry.get_creator(name, "1", "streamseg")
    plugins = [
        create(creator, FIELDS[name], phase)
        for phase in (trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME)
    ]
    kinds = trt.PluginCapabilityType
    core, build = (plugins[0].get_capability_interface(kind) for kind in (kinds.CORE, kinds.BUILD))
    runtime = plugins[1].get_capability_interface(kinds.RUNTIME)
    return {
        "creator": type(creator).__name__,
        "fields": [(entry.name, entry.type.name, entry.size) for entry in creator.field_names],
        "core": (core.plugin_name, core.plugin_version, core.plugin_namespace),
        "runtime": type(runtime).__name__,
        "outputs": build.num_outputs,
        "refused": refusals(creator, FIELDS[name]),
    }


@contextmanager
def warnings() -> Iterator[list[str]]:
    """Collect what the product warns of."""
    kept: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("streamseg")
    logger.addHandler(handler)
    yield kept
    logger.removeHandler(handler)


def missing_names() -> list[str]:
    """What the backend calls and this TensorRT does not have."""
    return [
        f"{owner}.{name}"
        for owner, names in json.loads(names_used).items()
        for name in names
        if not hasattr(getattr(trt, owner, None), name)
    ]


def main() -> None:
    registry = trt.get_plugin_registry()
    try:
        load_plugins(trt, "tensorrt", Path(no_library))
        foreign = "loaded"
    except BackendError as error:
        foreign = str(error)
    handle = registry.load_library(library)
    with warnings() as unknown:
        load_plugins(trt, "tensorrt", Path(library))  # loaded above, by other code than ours
    registry.deregister_library(handle)
    left = [n for n in FIELDS if registry.get_creator(n, "1", "streamseg") is not None]
    load_plugins(trt, "tensorrt", Path(library))
    with warnings() as same:
        load_plugins(trt, "tensorrt", Path(library))
    other_build = Path(no_library).with_name("another.so")
    other_build.write_bytes(Path(library).read_bytes() + bytes(1))
    try:
        load_plugins(trt, "tensorrt", other_build)
        another = "accepted"
    except BackendError as error:
        another = str(error)
    found: dict[str, Any] = {"version": trt.__version__, "foreign": foreign, "another": another}
    found |= {"unknown": unknown, "same": same, "left": left}
    found["plugins"] = {name: describe(name, registry) for name in FIELDS}
    found["missing"] = missing_names()
    print(json.dumps(found), flush=True)


main()

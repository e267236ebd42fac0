"""Operators on maps of 16-bit numbers: computed in float32, rounded once, in both CPU runtimes."""

from __future__ import annotations

import io
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamseg.errors import BackendError, PluginNotFound
from streamseg.export.windows import WindowGeometry
from streamseg.plugins.loader import find_library, find_openvino_library
from streamseg.plugins.table import (
    ATTENTION,
    CAUSAL_CONV,
    GEOMETRY,
    MAMBA_LAYER,
    SELECTIVE_SCAN,
    Operator,
)
from streamseg.runtime.backends.openvino import import_openvino, release_of, shared_core
from tests.plugins.test_layer import layer_inputs

Array = NDArray[Any]
TYPES = {"float16": (TensorProto.FLOAT16, np.float16), "bfloat16": (TensorProto.BFLOAT16, bfloat16)}
WINDOWS = WindowGeometry(37, 41, 9, 8, 3, 4)  # maps of more than one piece of the conversion
SIZE = (19, 37, 5, 3)  # features, channels, states, rank
OPERATORS = {op.name: op for op in (CAUSAL_CONV, SELECTIVE_SCAN, MAMBA_LAYER, ATTENTION)}


def operands(op: Operator) -> dict[str, Array]:
    """Inputs of the right shapes; A is negative."""
    layer = dict(zip(MAMBA_LAYER.input_names, layer_inputs(WINDOWS, SIZE), strict=True))
    rng = np.random.default_rng(2)
    sizes = {"batch": 2, "tokens": WINDOWS.tokens, "cells": WINDOWS.cells, "channels": SIZE[1]}
    sizes |= {"taps": 4, "history": 3, "states": SIZE[2]}
    sizes |= {"queries": WINDOWS.tokens, "keys": 40, "features": 24}
    arrays = {}
    for operand in op.inputs:
        if op is MAMBA_LAYER:
            array = layer[operand.name]
        else:
            array = rng.normal(size=[sizes[axis] for axis in operand.axes]).astype(np.float32)
            array = -np.exp(array) if operand.name == "A" else array
        arrays[operand.name] = array
    return arrays


def is_map(op: Operator, name: str) -> bool:
    return any(operand.name == name and operand.role == "map" for operand in op.inputs)


def model(op: Operator, arrays: dict[str, Array], kind: int) -> bytes:
    """One node between casts of its maps; weights are constants."""
    windows = dict(zip(GEOMETRY, astuple(WINDOWS), strict=True))
    given = {**windows, "precision": 0, "heads": 3}
    narrow = {name: f"{name}_narrow" for name in arrays if is_map(op, name)}
    states = [f"state{index}" for index in range(len(op.outputs) - 1)]
    nodes = [helper.make_node("Cast", [name], [cast], to=kind) for name, cast in narrow.items()]
    nodes.append(
        helper.make_node(
            op.name,
            [narrow.get(name, name) for name in arrays],
            ["y_narrow", *states],
            domain="streamseg",
            **{name: given[name] for name in op.attribute_names},
        )
    )
    nodes.append(helper.make_node("Cast", ["y_narrow"], ["y"], to=TensorProto.FLOAT))
    roles = {operand.name: operand.role for operand in op.inputs}
    graph = helper.make_graph(
        nodes,
        op.name,
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in arrays.items()
            if roles[name] != "weight"
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", *states)],
        [
            numpy_helper.from_array(array, name)
            for name, array in arrays.items()
            if roles[name] == "weight"
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("streamseg", 1)]
    return onnx.ModelProto.SerializeToString(
        helper.make_model(graph, opset_imports=imports, ir_version=9)
    )


def run_onnxruntime(content: bytes, arrays: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(str(find_library()))
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {entry.name: arrays[entry.name] for entry in session.get_inputs()}
    return [np.asarray(array) for array in session.run(None, feed)]


def find_extension() -> Path:
    """OpenVINO's extension; the test is skipped where it is missing."""
    try:
        return find_openvino_library(release_of(import_openvino()))
    except (BackendError, PluginNotFound) as reason:
        pytest.skip(str(reason))


def run_openvino(content: bytes, arrays: dict[str, Array]) -> list[Array]:
    core = shared_core(find_extension())
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", config)
    feed = {port.get_any_name(): arrays[port.get_any_name()] for port in compiled.inputs}
    return [np.array(array) for array in compiled(feed).values()]


# OpenVINO computes graphs in float16 as float32 throughout, so its nodes never see such maps.
@pytest.mark.parametrize(
    ("run", "kind"),
    [(run_onnxruntime, "float16"), (run_onnxruntime, "bfloat16"), (run_openvino, "bfloat16")],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_narrow_maps_compute_as_float32_and_are_rounded_once(
    name: str, run: Any, kind: str
) -> None:
    op = OPERATORS[name]
    element, dtype = TYPES[kind]
    arrays = {
        name: array.astype(dtype).astype(np.float32) if is_map(op, name) else array
        for name, array in operands(op).items()
    }
    wide = run(model(op, arrays, TensorProto.FLOAT), arrays)
    narrow = run(model(op, arrays, element), arrays)
    np.testing.assert_array_equal(narrow[0], wide[0].astype(dtype).astype(np.float32))
    for got, want in zip(narrow[1:], wide[1:], strict=True):
        np.testing.assert_array_equal(got, want)
    assert not np.array_equal(narrow[0], wide[0])

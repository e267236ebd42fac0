"""Whether OpenVINO multiplies faster in bfloat16 than in float32: measured once, then remembered.

A processor that has bfloat16 products need not be faster with them: cores with AVX512_BF16 take
from 0.4 to 1.9 times as long as in float32, and those with AMX a fraction.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamseg.runtime.backends import choices

PRECISIONS = ("f32", "bf16")
ROWS, DEPTH, COLUMNS = 1024, 512, 512
ROUNDS = 7
WARM_UP = 2


def product_times(core: Any, threads: int | None) -> Mapping[str, float]:
    """Milliseconds of a matrix product in float32 and in bfloat16, on this processor.

    Args:
        core: OpenVINO's; see ``shared_core``.
        threads: as the backend's option; ``None``: OpenVINO's default.
    """
    version = importlib.import_module("openvino").__version__
    place = choices.place_of(["products", str(version), str(threads)])
    known = choices.recall(place, PRECISIONS)
    if known is None:
        known = _measure(core, threads)
        choices.remember(place, known)
    return known


def _measure(core: Any, threads: int | None) -> dict[str, float]:
    """The shortest of some rounds: other work on the machine only makes one longer."""
    requests = {name: _product(core, name, threads) for name in PRECISIONS}
    times: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for _ in range(WARM_UP + ROUNDS):
        for name, request in requests.items():
            start = time.perf_counter()
            request.infer()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: min(taken[WARM_UP:]) for name, taken in times.items()}


def _product(core: Any, precision: str, threads: int | None) -> Any:
    runtime, ops = map(importlib.import_module, ("openvino", "openvino.opset13"))
    noise = np.random.default_rng(0)
    rows = ops.parameter([ROWS, DEPTH], np.float32)
    weight = ops.constant(noise.standard_normal((DEPTH, COLUMNS), np.float32))
    # Two products, so that one of them reads and writes in the precision itself.
    second = ops.constant(noise.standard_normal((COLUMNS, COLUMNS), np.float32))
    product = ops.matmul(ops.relu(ops.matmul(rows, weight, False, False)), second, False, False)
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    model = runtime.Model([product], [rows], "product")
    request = core.compile_model(model, "CPU", config).create_infer_request()
    request.set_input_tensor(runtime.Tensor(noise.standard_normal((ROWS, DEPTH), np.float32)))
    return request

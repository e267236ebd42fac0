"""Whether OpenVINO is faster in bfloat16 than in float32: measured once, then remembered.

A processor that has bfloat16 products need not be faster with them: cores with AVX512_BF16 take
from 0.4 to 1.9 times as long as in float32, and those with AMX a fraction. A product of each
decides for a bundle that multiplies in floating point. Where most products are INT8, the maps
between them weigh more, which bfloat16 halves: steps of the bundle itself decide.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from streamseg.runtime.backends import choices
from streamseg.runtime.backends.interface import BackendOptions, Executable
from streamseg.runtime.backends.step_times import Measurement, measure
from streamseg.runtime.bundle.bundle import Bundle

PRECISIONS = ("f32", "bf16")
OPTIONS = ("fp32", "bf16")
ROWS, DEPTH, COLUMNS = 1024, 512, 512
ROUNDS = 7
WARM_UP = 2


def compare_products(core: Any, threads: int | None) -> tuple[bool, str]:
    """Whether this processor multiplies faster in bfloat16, and the words for it."""
    times = product_times(core, threads)
    gain = times["f32"] / times["bf16"]
    factor = f"{gain:.1f} times as fast" if gain > 1 else f"{1 / gain:.1f} times as slowly"
    return gain > 1, f"the processor multiplies bfloat16 {factor}"


def compare_steps(
    bundle: Bundle, options: BackendOptions, load: Callable[[Bundle, BackendOptions], Executable]
) -> tuple[bool, str]:
    """Whether steps of this bundle are faster in bfloat16, and the words for it.

    Args:
        bundle: what runs.
        options: how it is opened; the precision is ignored.
        load: loads it with a precision that is named.
    """
    version = importlib.import_module("openvino").__version__
    place = choices.place_of_steps(bundle, options, [version], "precision")
    kept = choices.recall(place, OPTIONS)
    found = _measure_steps(bundle, options, load) if kept is None else Measurement(kept)
    if kept is None:
        choices.remember(place, found.medians)
    return found.fastest == "bf16", f"chosen by measurement: {found.describe()}"


def _measure_steps(
    bundle: Bundle, options: BackendOptions, load: Callable[[Bundle, BackendOptions], Executable]
) -> Measurement:
    loaded: dict[str, Executable] = {}
    try:
        for name in OPTIONS:
            loaded[name] = load(bundle, replace(options, precision=name))
        return measure(loaded, bundle.manifest)
    finally:
        for executable in loaded.values():
            executable.close()


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
        known = _measure_products(core, threads)
        choices.remember(place, known)
    return known


def _measure_products(core: Any, threads: int | None) -> dict[str, float]:
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

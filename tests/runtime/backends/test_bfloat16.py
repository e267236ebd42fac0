"""When OpenVINO's ``auto`` takes bfloat16: by a product, or by steps of an INT8 bundle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamseg.errors import BackendError
from streamseg.runtime.backends import BackendOptions, openvino
from streamseg.runtime.backends.bfloat16 import compare_products, product_times
from streamseg.runtime.backends.openvino import (
    OpenVinoLane,
    build_openvino,
    choose_precision,
    shared_core,
)
from streamseg.runtime.bundle.bundle import MANIFEST, read_bundle
from streamseg.runtime.stream import open_stream
from tests.conftest import NO_OPENVINO
from tests.runtime.toy import write_toy_bundle

pytestmark = NO_OPENVINO

INT8 = {"layers": "int8", "rest": "float32"}
FUSED = {"layers": "float32", "rest": "float32", "temporal": "int8-dynamic"}
NARROW = {"layers": "float32", "rest": "float32", "temporal": "bf16"}


class Processor:
    """A core that says what its CPU can."""

    def __init__(self, *capabilities: str) -> None:
        self._capabilities = list(capabilities)

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self._capabilities


def test_auto_takes_bfloat16_only_where_the_processor_has_it_and_is_faster() -> None:
    def never() -> tuple[bool, str]:
        raise AssertionError("nothing to compare")

    both = Processor("FP32", "BF16")
    assert choose_precision(both, "CPU", None, lambda: (True, "why")) == ("bf16", "why")
    assert choose_precision(both, "CPU", "auto", lambda: (False, "why")) == ("fp32", "why")
    assert choose_precision(Processor("FP32"), "CPU", "auto", never)[0] == "fp32"
    assert choose_precision(both, "CPU", "fp32", never) == ("fp32", "")
    assert choose_precision(Processor(), "GPU", "auto", never)[0] == ""
    with pytest.raises(BackendError, match="precision is 'int8', expected one of: auto, fp32"):
        choose_precision(Processor(), "CPU", "int8", never)


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of remembered choices."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/streamseg/choices"


def test_products_are_measured_once_and_remembered(records: Path) -> None:
    first = product_times(shared_core(), 1)
    assert set(first) == {"f32", "bf16"}
    assert all(value > 0 for value in first.values())
    (record,) = records.iterdir()
    assert product_times(shared_core(), 1) == first
    record.write_text('{"f32": 1, "bf16": 3}')
    assert product_times(shared_core(), 1) == {"f32": 1.0, "bf16": 3.0}
    record.write_text("[" * 100_000)
    assert set(product_times(shared_core(), 1)) == {"f32", "bf16"}


def test_products_decide_by_the_shorter_time(records: Path) -> None:
    product_times(shared_core(), 1)
    (record,) = records.iterdir()
    for bf16, words in ((1, "2.0 times as fast"), (4, "2.0 times as slowly")):
        record.write_text(json.dumps({"f32": 2, "bf16": bf16}))
        expected = (bf16 < 2, f"the processor multiplies bfloat16 {words}")
        assert compare_products(shared_core(), 1) == expected


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On a processor with bfloat16 products that are slower than float32's."""
    monkeypatch.setattr(openvino, "multiplies_bfloat16", lambda _: True)
    monkeypatch.setattr(openvino, "compare_products", lambda *_: (False, "by products"))
    return write_toy_bundle(tmp_path / "toy")


def in_precision(bundle: Path, precision: dict[str, str]) -> Path:
    """The bundle with a manifest that says so."""
    manifest = read_bundle(bundle).manifest
    (bundle / MANIFEST).write_text(replace(manifest, precision=precision).to_json())
    return bundle


Slow = Callable[[str], list[str]]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Delays the steps of a precision; returns a list of the precision of every step."""
    real = OpenVinoLane.start
    taken: list[str] = []
    delayed = ""

    def start(lane: OpenVinoLane, plan: Any) -> None:
        name = "bf16" if " bf16" in lane._executable.description else "fp32"
        taken.append(name)
        if name == delayed:
            time.sleep(0.03)
        real(lane, plan)

    def choose(name: str) -> list[str]:
        nonlocal delayed
        delayed = name
        taken.clear()
        return taken

    monkeypatch.setattr(OpenVinoLane, "start", start)
    return choose


def execution(bundle: Path, **options: Any) -> str:
    with open_stream(bundle, **{"backend": "openvino", "threads": 1, **options}) as stream:
        return stream.execution


@pytest.mark.parametrize("precision", [INT8, FUSED, {**FUSED, "layers": "int8"}], ids=str)
@pytest.mark.parametrize(("slower", "faster"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_int8_bundle_takes_what_its_steps_are_faster_in(
    bundle: Path, slow: Slow, precision: dict[str, str], slower: str, faster: str
) -> None:
    slow(slower)
    first = execution(in_precision(bundle, precision))
    assert f", {faster} (chosen by measurement: {faster} " in first
    assert f", {slower} " in first


def test_choice_is_remembered_for_the_bundle_and_its_threads(
    bundle: Path, slow: Slow, records: Path
) -> None:
    taken = slow("fp32")
    first = execution(in_precision(bundle, INT8))
    assert taken
    taken = slow("bf16")
    assert execution(bundle) == first
    assert execution(bundle, precision="auto") == first
    assert not taken
    assert "fp32 (chosen" in execution(bundle, threads=2)
    assert len(list(records.iterdir())) == 2


def test_damaged_choice_is_measured_again(bundle: Path, slow: Slow, records: Path) -> None:
    slow("bf16")
    execution(in_precision(bundle, INT8))
    (record,) = records.iterdir()
    record.write_text('{"fp32": 2}')
    assert slow("fp32") == []
    assert "bf16 (chosen" in execution(bundle)


@pytest.mark.parametrize("precision", [{}, NARROW], ids=str)
def test_products_decide_for_floating_point(
    bundle: Path, slow: Slow, precision: dict[str, str]
) -> None:
    taken = slow("fp32")
    assert ", fp32 (by products)" in execution(in_precision(bundle, precision))
    assert not taken


@pytest.mark.parametrize("wish", ["fp32", "bf16"])
def test_named_precision_is_not_measured(bundle: Path, slow: Slow, wish: str) -> None:
    taken = slow(wish)
    assert f", {wish}, " in execution(in_precision(bundle, INT8), precision=wish)
    assert not taken


def test_processor_without_bfloat16_measures_nothing(
    bundle: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "multiplies_bfloat16", lambda _: False)
    taken = slow("fp32")
    assert "the processor does not multiply bfloat16" in execution(in_precision(bundle, INT8))
    assert not taken


def test_build_measures_and_keeps_the_graphs_of_the_faster(
    bundle: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow("fp32")
    opened = read_bundle(in_precision(bundle, INT8))
    written = build_openvino(opened, BackendOptions(threads=1))
    assert len(written) == len(opened.graphs)
    monkeypatch.setattr(openvino, "compile_graph", lambda *_: pytest.fail("compiled again"))
    taken = slow("bf16")
    assert "bf16 (chosen" in execution(bundle)
    assert not taken

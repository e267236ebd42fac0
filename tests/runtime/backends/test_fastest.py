"""``backend="auto"`` on the CPU: measured once, remembered, and named."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamseg.errors import BackendError, PluginNotFound
from streamseg.runtime.backends import CPU_BACKEND, choices, fastest
from streamseg.runtime.backends.step_times import Measurement
from streamseg.runtime.stream import Stream, open_stream
from tests.conftest import NO_OPENVINO
from tests.runtime.toy import write_toy_bundle

pytestmark = NO_OPENVINO


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(CPU_BACKEND)
    return write_toy_bundle(tmp_path / "toy")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """Every measurement that is made."""
    made: list[Measurement] = []
    real: Callable[..., Measurement] = fastest.measure

    def measure(*arguments: Any) -> Measurement:
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr(fastest, "measure", measure)
    return made


def opened(path: Path, **options: Any) -> Stream:
    return open_stream(path, threads=1, **options)


def test_choice_is_measured_once_and_named(toy: Path, measured: list[Measurement]) -> None:
    with opened(toy) as stream:
        first = stream.execution
    with opened(toy) as stream:
        assert stream.execution == first
    (found,) = measured
    assert set(found.medians) == {"onnxruntime", "openvino"}
    assert first.startswith(found.fastest)
    assert f"chosen by measurement: {found.describe()}" in first


def test_remembered_choice_is_used(toy: Path, tmp_path: Path) -> None:
    opened(toy).close()
    (record,) = (tmp_path / "cache/streamseg/choices").iterdir()
    for name in ("onnxruntime", "openvino"):
        medians = {"onnxruntime": 9.0, "openvino": 9.0, name: 1.0}
        record.write_text(json.dumps(medians))
        with opened(toy) as stream:
            assert stream.execution.startswith(name)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"onnxruntime": 1}', "[" * 100_000),
        *(f'{{"onnxruntime": 1, "openvino": {value}}}' for value in ("NaN", "-1", "0", "1e999")),
        f'{{"onnxruntime": 1, "openvino": 1{"0" * 400}}}',
    ],
)
def test_damaged_choice_is_measured_again(
    toy: Path, tmp_path: Path, measured: list[Measurement], content: str
) -> None:
    opened(toy).close()
    (record,) = (tmp_path / "cache/streamseg/choices").iterdir()
    record.write_text(content)
    opened(toy).close()
    assert len(measured) == 2


def test_other_threads_are_measured_apart(toy: Path, measured: list[Measurement]) -> None:
    open_stream(toy, threads=1).close()
    open_stream(toy, threads=2).close()
    assert len(measured) == 2


@pytest.mark.parametrize("place", ["find_library", "find_openvino_library"])
def test_choice_is_measured_again_with_another_operator_library(
    toy: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Measurement], place: str
) -> None:
    opened(toy).close()
    library = toy.parent / "other.so"
    library.write_bytes(b"other")
    monkeypatch.setattr(choices, place, lambda *_: library)
    opened(toy).close()
    opened(toy).close()
    assert len(measured) == 2


def test_choice_belongs_to_the_instruction_set(
    toy: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Measurement]
) -> None:
    opened(toy).close()
    monkeypatch.setenv("STREAMSEG_CPU_LEVEL", "scalar")
    opened(toy).close()
    assert len(measured) == 2


def test_impossible_threads_are_one_error_without_warnings(
    toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BackendError, match="threads is 100000, expected 1 to"):
        open_stream(toy, threads=100_000)
    assert not caplog.messages


def test_environment_names_the_backend(
    toy: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Measurement]
) -> None:
    monkeypatch.setenv(CPU_BACKEND, "openvino")
    with opened(toy, precision="fp32") as stream:
        assert stream.execution.startswith("openvino")
    monkeypatch.setenv(CPU_BACKEND, "fastest")
    with pytest.raises(BackendError, match="is 'fastest', expected onnxruntime or openvino"):
        opened(toy)
    assert measured == []


def test_precision_is_openvinos_alone(toy: Path, measured: list[Measurement]) -> None:
    with opened(toy, precision="bf16") as stream:
        assert stream.execution.startswith("openvino")
        assert "bf16" in stream.execution
    assert measured == []


def test_without_openvino_onnxruntime_is_chosen(
    toy: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Measurement]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        fastest.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "openvino" else real(name, *rest),
    )
    with opened(toy) as stream:
        assert stream.execution.startswith("onnxruntime")
        assert "chosen" not in stream.execution
    with pytest.raises(BackendError, match="precision 'bf16' needs OpenVINO"):
        opened(toy, precision="bf16")
    assert measured == []


@pytest.mark.parametrize("chosen", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("known", [True, False], ids=["remembered", "measured"])
def test_missing_kernels_are_reported_for_the_chosen_backend_alone(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    chosen: str,
    known: bool,
) -> None:
    def missing(*_: object) -> Path:
        raise PluginNotFound("no kernels for OpenVINO")

    monkeypatch.setattr(
        fastest, "measure", lambda *_: Measurement({"onnxruntime": 9.0, "openvino": 9.0, chosen: 1})
    )
    if known:
        opened(toy).close()
        caplog.clear()
    monkeypatch.setattr("streamseg.runtime.backends.openvino.find_openvino_library", missing)
    with opened(toy) as stream:
        assert stream.execution.startswith(chosen)
    reported = [line for line in caplog.messages if "no kernels for OpenVINO" in line]
    assert len(reported) == (chosen == "openvino")

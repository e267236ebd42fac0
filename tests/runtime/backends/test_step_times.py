"""What is said of a measurement of steps."""

from __future__ import annotations

from streamseg.runtime.backends.step_times import Measurement


def test_medians_are_listed_fastest_first() -> None:
    found = Measurement({"onnxruntime": 40.12, "openvino": 25.3})
    assert found.fastest == "openvino"
    assert found.describe() == "openvino 25.3 ms a step, onnxruntime 40.1"

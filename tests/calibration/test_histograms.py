"""Streaming histograms and the ranges read off them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.calibration.histograms import BINS, METHODS, Histogram


def fill(values: np.ndarray, parts: int = 1) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), parts):
        histogram.add(part)
    return histogram


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.floats(1e-3, 1e4))
def test_stream_of_parts_equals_numpy_on_all_at_once(seed, parts, scale):
    values = np.random.default_rng(seed).standard_normal(500).astype(np.float32) * scale
    histogram = fill(values, parts)
    assert histogram.largest == np.abs(values).max()
    assert histogram.seen == histogram.counts.sum() == 500
    expected, _ = np.histogram(np.abs(values), BINS, (0, histogram.limit))
    # Values within rounding of a bin's edge may fall on either side of it.
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 1


def test_memory_does_not_grow():
    histogram = Histogram()
    for exponent in range(-20, 20):
        histogram.add(np.array([2.0**exponent], np.float32))
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == 40


@pytest.mark.parametrize("method", METHODS)
def test_threshold_is_zero_for_zeros_and_never_above_the_largest(method):
    assert fill(np.zeros(10)).threshold(method) == 0.0
    values = np.random.default_rng(0).standard_normal(5000)
    found = fill(values).threshold(method)
    assert 0 < found <= np.abs(values).max() + 1e-6


def test_minmax_is_exact_and_percentile_cuts_the_tail():
    values = np.append(np.linspace(0, 1, 99_990), np.full(10, 50.0))
    histogram = fill(values)
    assert histogram.threshold("minmax") == 50.0
    assert histogram.threshold("percentile", 99.9) == pytest.approx(1.0, abs=0.03)


def test_mse_threshold_has_the_least_error_of_all_thresholds():
    values = np.random.default_rng(1).laplace(size=20_000).astype(np.float32)

    def error(limit: float) -> float:
        step = limit / 127
        levels = np.clip(np.round(values / step), -127, 127)
        return float(np.square(values - levels * step).mean())

    found = fill(values).threshold("mse")
    candidates = np.linspace(0.2, 1.0, 200) * np.abs(values).max()
    assert error(found) <= min(map(error, candidates)) * 1.02
    assert found < np.abs(values).max()


def test_entropy_keeps_a_uniform_range_and_cuts_outliers():
    uniform = np.random.default_rng(2).uniform(-1, 1, 50_000)
    assert fill(uniform).threshold("entropy") > 0.9
    normal = np.random.default_rng(3).standard_normal(50_000)
    outliers = np.append(normal, np.full(5, 100.0))
    assert 3 < fill(outliers).threshold("entropy") < 60


def test_non_finite_values_are_refused():
    with pytest.raises(ValueError, match="finite"):
        fill(np.array([1.0, np.nan]))

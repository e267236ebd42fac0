from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.errors import SourceError
from streamseg.runtime.video.resize import FrameFitter, Region, place_frame

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def random_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def bilinear_reference(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres, edges clamped, in float64."""
    value = image.astype(np.float64)
    for axis, extent in enumerate(size):
        source = image.shape[axis]
        position = np.clip((np.arange(extent) + 0.5) * source / extent - 0.5, 0, source - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, source - 1)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(value.ndim)])
        value = np.take(value, low, axis) * (1 - share) + np.take(value, high, axis) * share
    return value


def nearest_reference(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Exact fractions: the source pixel that holds the centre of each target pixel."""
    rows, columns = (
        [int((i + Fraction(1, 2)) * source / to) for i in range(to)]
        for to, source in zip(size, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_frame_of_the_model_size_passes_unchanged(mode: str) -> None:
    frame = random_image((24, 32, 3))
    out = np.zeros_like(frame)
    fitter = FrameFitter((24, 32), (24, 32), mode)
    fitter.fit(frame, out)
    np.testing.assert_array_equal(out, frame)
    labels = random_image((24, 32))
    np.testing.assert_array_equal(fitter.restore(labels), labels)


@pytest.mark.parametrize("size", [(31, 40), (20, 20), (63, 17)])
def test_stretch_is_bilinear_with_aligned_pixel_centres(size: tuple[int, int]) -> None:
    frame = random_image((32, 34, 3))
    out = np.empty((*size, 3), np.uint8)
    FrameFitter((32, 34), size).fit(frame, out)
    np.testing.assert_allclose(out, bilinear_reference(frame, size), atol=1.0)


def test_shrinking_by_more_than_two_averages_areas() -> None:
    frame = random_image((24, 36, 3))
    out = np.empty((8, 12, 3), np.uint8)
    FrameFitter((24, 36), (8, 12)).fit(frame, out)
    means = frame.reshape(8, 3, 12, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out, means, atol=0.5 + 1e-9)


def test_shrinking_by_two_stays_bilinear() -> None:
    frame = random_image((16, 20, 3))
    out = np.empty((8, 10, 3), np.uint8)
    FrameFitter((16, 20), (8, 10)).fit(frame, out)
    np.testing.assert_array_equal(out, cv2.resize(frame, (10, 8), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize(
    ("frame_size", "model_size", "region"),
    [
        ((50, 100), (64, 64), Region(16, 48, 0, 64)),
        ((100, 50), (64, 64), Region(0, 64, 16, 48)),
        ((3, 4), (33, 40), Region(1, 31, 0, 40)),
        ((1, 1000), (8, 8), Region(3, 4, 0, 8)),
    ],
)
def test_letterbox_centres_the_picture(
    frame_size: tuple[int, int], model_size: tuple[int, int], region: Region
) -> None:
    assert place_frame(frame_size, model_size, "letterbox") == region


def test_letterbox_fills_margins_and_leaves_nothing_old() -> None:
    frame = random_image((10, 20, 3))
    out = np.full((32, 32, 3), 9, np.uint8)
    fitter = FrameFitter((10, 20), (32, 32), "letterbox", fill=(124, 116, 104))
    fitter.fit(frame, out)
    assert fitter.region == Region(8, 24, 0, 32)
    assert (out[:8] == (124, 116, 104)).all()
    assert (out[24:] == (124, 116, 104)).all()
    np.testing.assert_array_equal(out[8:24], cv2.resize(frame, (32, 16)))


@given(frame_size=SIZES, model_size=SIZES, mode=st.sampled_from(["stretch", "letterbox"]))
def test_labels_return_by_exact_nearest_neighbour(
    frame_size: tuple[int, int], model_size: tuple[int, int], mode: str
) -> None:
    labels = random_image(model_size, seed=1)
    fitter = FrameFitter(frame_size, model_size, mode)
    restored = fitter.restore(labels)
    expected = nearest_reference(fitter.region.of(labels), frame_size)
    np.testing.assert_array_equal(restored, expected)


@given(frame_size=SIZES, factor=st.integers(1, 3), mode=st.sampled_from(["stretch", "letterbox"]))
def test_flat_colours_survive_the_round_trip(
    frame_size: tuple[int, int], factor: int, mode: str
) -> None:
    model_size = (frame_size[0] * factor, frame_size[1] * factor)
    frame = random_image((*frame_size, 3), seed=2)
    frame[...] = frame[0, 0]
    out = np.empty((*model_size, 3), np.uint8)
    fitter = FrameFitter(frame_size, model_size, mode)
    fitter.fit(frame, out)
    np.testing.assert_array_equal(fitter.restore(out[..., 0]), frame[..., 0])


def test_restored_labels_reuse_one_buffer() -> None:
    fitter = FrameFitter((20, 20), (10, 10))
    first = fitter.restore(np.zeros((10, 10), np.uint8))
    assert fitter.restore(np.ones((10, 10), np.uint8)) is first


@pytest.mark.parametrize(
    ("shape", "dtype"), [((10, 11, 3), np.uint8), ((10, 10), np.uint8), ((10, 10, 3), np.float32)]
)
def test_frame_of_another_shape_or_dtype_is_refused(shape: tuple[int, ...], dtype: type) -> None:
    fitter = FrameFitter((10, 10), (10, 10))
    with pytest.raises(SourceError, match=r"expected uint8 \[10, 10, 3\]"):
        fitter.fit(np.zeros(shape, dtype), np.empty((10, 10, 3), np.uint8))


def test_size_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SourceError, match="0x10"):
        FrameFitter((0, 10), (10, 10))

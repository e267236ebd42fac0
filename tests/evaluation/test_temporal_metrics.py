"""Flicker, boundaries, temporal consistency and mVCn against implementations of their own.

Every expected value is computed here from the definition, pixel by pixel, or by SciPy.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import jaccard_score

from streamseg.errors import DatasetError
from streamseg.evaluation.boundaries import TOLERANCE, boundary_scores
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.metrics import MetricOptions, Scores, SegmentationMetrics
from streamseg.evaluation.optical_flow import FlowEstimator, TemporalConsistency, warp
from tests.conftest import SHARED

VOID = 255
Maps = list[NDArray[np.uint8]]
CAMVID = SHARED / "data/camvid"


def wandering_maps(seed: int, count: int, size: tuple[int, int], classes: int) -> Maps:
    """Label maps in blobs, a few of which change from frame to frame."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, classes, (size[0] // 4 + 1, size[1] // 4 + 1))
    maps = []
    for _ in range(count):
        change = draw.random(coarse.shape) < 0.1
        coarse = np.where(change, draw.integers(0, classes, coarse.shape), coarse)
        maps.append(coarse.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]].astype(np.uint8))
    return maps


def with_void(maps: Maps, seed: int) -> Maps:
    draw = np.random.default_rng(seed)
    return [np.where(draw.random(m.shape) < 0.05, VOID, m).astype(np.uint8) for m in maps]


def score(predictions: Maps, labels: Maps, classes: int, options: MetricOptions) -> Scores:
    metrics = SegmentationMetrics(classes, options)
    metrics.start_clip("clip")
    for prediction, label in zip(predictions, labels, strict=True):
        metrics.add(prediction, label)
    return metrics.scores()


def camvid_maps() -> tuple[Maps, Maps]:
    """Labels of CamVid's first drive of val, and predictions made by moving them by 3 pixels."""
    if not CAMVID.is_dir():
        pytest.skip("no shared CamVid")
    clip = open_dataset(f"camvid:{CAMVID}", "val").clips[0]
    labels = [clip.read_label(index)[::2, ::2] for index in range(20)]
    moves = np.random.default_rng(0).integers(-3, 4, (20, 2))
    predictions = [np.roll(label, move, (0, 1)) for label, move in zip(labels, moves, strict=True)]
    return [np.where(p == VOID, 0, p).astype(np.uint8) for p in predictions], labels


def cases() -> list[object]:
    random = [
        (
            wandering_maps(seed, 12, (14, 19), 4),
            with_void(wandering_maps(seed + 50, 12, (14, 19), 4), seed),
            4,
        )
        for seed in range(4)
    ]
    return [*random, "camvid"]


@pytest.fixture(params=cases(), ids=[*(f"random {i}" for i in range(4)), "camvid"])
def maps(request: pytest.FixtureRequest) -> tuple[Maps, Maps, int]:
    if request.param == "camvid":
        return *camvid_maps(), 11
    found: tuple[Maps, Maps, int] = request.param
    return found


def expected_vc(predictions: Maps, labels: Maps, n: int) -> tuple[float, float]:
    same, correct = [], []
    for start in range(len(labels) - n + 1):
        truth, guess = np.stack(labels[start : start + n]), np.stack(predictions[start : start + n])
        stable = (np.ptp(truth.astype(int), axis=0) == 0) & (truth[0] != VOID)
        if stable.any():
            same.append((np.ptp(guess.astype(int), axis=0) == 0)[stable].mean())
            correct.append((guess == truth).all(0)[stable].mean())
    return float(np.mean(same)), float(np.mean(correct))


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_mvc_of_any_window_is_the_published_definition(
    maps: tuple[Maps, Maps, int], n: int
) -> None:
    predictions, labels, classes = maps
    got = score(predictions, labels, classes, MetricOptions(windows=(n,)))
    expected = expected_vc(predictions, labels, n)
    assert (got.mvc[n], got.mvc_correct[n]) == pytest.approx(expected, abs=1e-6)


def test_windows_longer_than_255_frames_are_counted() -> None:
    still = [np.zeros((2, 2), np.uint8)] * 300
    flip = [*still[:290], *[np.ones((2, 2), np.uint8)] * 10]
    got = score(flip, still, 2, MetricOptions(windows=(280,)))
    assert got.mvc[280] == pytest.approx(expected_vc(flip, still, 280)[0], abs=1e-6)
    assert got.mvc[280] == pytest.approx(11 / 21, abs=1e-6)


@pytest.mark.parametrize("n", [1, 60_001])
def test_window_out_of_range_is_refused(n: int) -> None:
    with pytest.raises(DatasetError, match="expected a window of 2 to 60000"):
        MetricOptions(windows=(n,))


def test_frequency_weighted_iou_is_scikit_learns_weighted_jaccard(
    maps: tuple[Maps, Maps, int],
) -> None:
    predictions, labels, classes = maps
    got = score(predictions, labels, classes, MetricOptions())
    truth, guess = np.concatenate(labels).ravel(), np.concatenate(predictions).ravel()
    guess, truth = guess[truth != VOID], truth[truth != VOID]
    expected = jaccard_score(
        truth, guess, labels=range(classes), average="weighted", zero_division=0
    )
    assert got.weighted_iou == pytest.approx(expected, abs=1e-6)


def test_flicker_is_the_share_of_changes_at_constant_truth(maps: tuple[Maps, Maps, int]) -> None:
    predictions, labels, classes = maps
    got = score(predictions, labels, classes, MetricOptions())
    changed, pairs = np.zeros(classes), np.zeros(classes)
    for t in range(1, len(labels)):
        for before, now, old, new in zip(
            labels[t - 1].flat, labels[t].flat, predictions[t - 1].flat, predictions[t].flat,
            strict=True,
        ):  # fmt: skip
            if before == now != VOID:
                pairs[now] += 1
                changed[now] += old != new
    for index in range(classes):
        expected = changed[index] / pairs[index] if pairs[index] else math.nan
        assert got.flicker[index] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert got.flicker_rate == pytest.approx(changed.sum() / pairs.sum(), abs=1e-6)


def test_flicker_does_not_reach_over_clips_or_unlabelled_frames() -> None:
    zero, one = np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)
    metrics = SegmentationMetrics(2)
    metrics.start_clip("a")
    metrics.add(zero, zero)
    metrics.add(one, None)
    metrics.add(one, zero)
    metrics.start_clip("b")
    metrics.add(zero, zero)
    assert math.isnan(metrics.scores().flicker_rate)


def expected_outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def expected_boundary(prediction: NDArray[np.uint8], label: NDArray[np.uint8], index: int) -> float:
    guess = expected_outline((prediction == index) & (label != VOID))
    truth = expected_outline(label == index)
    if not guess.any() or not truth.any():
        return 0.0 if guess.any() or truth.any() else math.nan
    reach = TOLERANCE * math.hypot(*label.shape)
    near_truth = ndimage.distance_transform_edt(~truth) < reach
    near_guess = ndimage.distance_transform_edt(~guess) < reach
    precision, recall = near_truth[guess].mean(), near_guess[truth].mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_boundary_score_is_that_of_scipys_distances(maps: tuple[Maps, Maps, int]) -> None:
    predictions, labels, classes = maps
    got = score(predictions, labels, classes, MetricOptions(boundary=True))
    frames = np.array(
        [
            [expected_boundary(p, t, index) for index in range(classes)]
            for p, t in zip(predictions, labels, strict=True)
        ]
    )
    count = (~np.isnan(frames)).sum(0)
    expected = np.full(classes, np.nan)
    expected[count > 0] = np.nansum(frames, 0)[count > 0] / count[count > 0]
    np.testing.assert_allclose(got.boundary, expected, atol=1e-6)
    assert got.boundary_f == pytest.approx(np.nanmean(expected), abs=1e-6)


def test_boundary_score_by_hand() -> None:
    label = np.zeros((400, 300), np.uint8)  # diagonal 500: pixels nearer than 3.75 match
    label[:, 100:] = 1
    for shift, expected in ((0, 1.0), (3, 1.0), (4, 0.0)):
        got = boundary_scores(np.roll(label, shift, 1)[:, 8:], label[:, 8:], 3)
        wide = math.hypot(400, 292) * TOLERANCE
        assert 3 < wide < 4
        assert got[0] == got[1] == expected
        assert math.isnan(got[2])


def test_warped_labels_come_from_where_the_flow_points() -> None:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 9, (7, 11)).astype(np.uint8)
    flow = draw.normal(0, 2, (7, 11, 2)).astype(np.float32)
    moved, inside = warp(labels, flow)
    for y in range(7):
        for x in range(11):
            from_x, from_y = round(x + float(flow[y, x, 0])), round(y + float(flow[y, x, 1]))
            within = 0 <= from_x < 11 and 0 <= from_y < 7
            assert inside[y, x] == within
            if within:
                assert moved[y, x] == labels[from_y, from_x]


def textured(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, size), 2)
    grey = (127 + 100 * noise / np.abs(noise).max()).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_points_to_the_place_in_the_frame_before(method: str) -> None:
    picture = textured((80, 120))
    before, image = picture[8:-8, 8:-8], picture[8:-8, 5:-11]  # contents move right by 3
    flow = FlowEstimator(method).estimate(image, before)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.median(flow[10:-10, 10:-10], (0, 1)), [-3, 0], atol=0.2)


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_tc_is_the_mean_iou_with_the_warped_prediction_before(method: str) -> None:
    size, classes = (48, 64), 4
    predictions = wandering_maps(9, 5, size, classes)
    images = [textured(size, seed) for seed in range(5)]
    options = MetricOptions(flow=method)  # type: ignore[arg-type]
    metrics = SegmentationMetrics(classes, options)
    metrics.start_clip("a")
    for prediction, image in zip(predictions, images, strict=True):
        metrics.add(prediction, None, image)
    expected = []
    estimator = FlowEstimator(method)  # type: ignore[arg-type]
    rows, columns = np.mgrid[: size[0], : size[1]]
    for t in range(1, 5):
        flow = estimator.estimate(images[t], images[t - 1])
        at = np.stack([rows + flow[..., 1], columns + flow[..., 0]])
        moved = ndimage.map_coordinates(
            predictions[t - 1].astype(int), np.rint(at), order=0, cval=-1
        )
        inside = moved >= 0
        expected.append(
            jaccard_score(
                predictions[t][inside],
                moved[inside],
                average="macro",
                labels=np.union1d(predictions[t][inside], moved[inside]),
            )
        )
    assert metrics.scores().tc == pytest.approx(np.mean(expected), abs=1e-6)


def test_tc_rewards_predictions_that_move_with_the_picture() -> None:
    picture, pattern = textured((64, 140)), wandering_maps(2, 1, (64, 140), 5)[0]
    frames = [(picture[:, s : s + 96], pattern[:, s : s + 96]) for s in range(40, 0, -4)]
    values = {}
    for kind in ("moving", "still"):
        consistency = TemporalConsistency("dis")
        for image, labels in frames:
            consistency.add(labels if kind == "moving" else pattern[:, :96], image)
        values[kind] = consistency.take_clip().mean()
    assert values["moving"] > 0.97
    assert values["still"] < 0.8


def test_tc_needs_images_and_frames_that_flow_can_be_found_in() -> None:
    small = np.zeros((8, 8), np.uint8)
    metrics = SegmentationMetrics(2, MetricOptions(flow="dis"))
    with pytest.raises(DatasetError, match="needs the image"):
        metrics.add(small, None)
    consistency = TemporalConsistency("dis")
    consistency.add(small, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match="12 pixels or more a side, got 8x8"):
        consistency.add(small, np.zeros((8, 8, 3), np.uint8))

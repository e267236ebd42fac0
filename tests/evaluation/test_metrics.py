"""Metrics against hand-computed cases and an independent whole-clip implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.errors import DatasetError
from streamseg.evaluation.metrics import MetricOptions, Scores, SegmentationMetrics

VOID = 255


def score(clips, num_classes, *, vspw_script=False) -> Scores:
    metrics = SegmentationMetrics(num_classes, MetricOptions(vspw_script=vspw_script))
    for predictions, labels in clips:
        metrics.start_clip()
        for prediction, label in zip(predictions, labels, strict=True):
            metrics.add(prediction, label)
    return metrics.scores()


def brute_force_mvc(clips, n, *, vspw_script):
    """Stacks whole windows, as the definition reads."""
    per_clip = []
    for predictions, labels in clips:
        count = len(labels)
        values = []
        for start in range(count - n if vspw_script else count - n + 1):
            truth = np.stack(labels[start : start + n])
            guess = np.stack(predictions[start : start + n])
            constant = (truth == truth[0]).all(0)
            if not vspw_script:
                constant &= truth[0] != VOID
            if not constant.any():
                continue
            same = (guess == guess[0]).all(0) & constant
            right = (guess == truth).all(0) & constant
            values.append((same.sum() / constant.sum(), right.sum() / constant.sum()))
        if vspw_script and count <= 16:
            values = []
        per_clip.append(values)
    if vspw_script:
        return np.mean([v for values in per_clip for v in values] or [(math.nan,) * 2], axis=0)
    means = [np.mean(values, axis=0) for values in per_clip if values]
    return np.mean(means or [(math.nan,) * 2], axis=0)


def brute_force_iou(clips, num_classes, *, vspw_script):
    truth = np.concatenate([np.ravel(frame) for _, labels in clips for frame in labels])
    guess = np.concatenate([np.ravel(frame) for predictions, _ in clips for frame in predictions])
    truth, guess = truth[truth != VOID], guess[truth != VOID]
    iou, weight = [], []
    for index in range(num_classes):
        union = ((truth == index) | (guess == index)).sum()
        iou.append(((truth == index) & (guess == index)).sum() / union if union else math.nan)
        weight.append((truth == index).sum())
    present = [v for v, w in zip(iou, weight, strict=True) if w or not vspw_script]
    present = [v for v in present if not math.isnan(v)]
    weighted = sum(v * w for v, w in zip(iou, weight, strict=True) if w)
    return (
        iou,
        np.mean(present) if present else math.nan,
        weighted / len(truth) if len(truth) else math.nan,
        (truth == guess).mean() if len(truth) else math.nan,
    )


@st.composite
def labelled_clips(draw):
    """Clips that flicker rarely, so that constant pixels survive 16 frames."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(1, 4))
    values = np.array([*range(classes), VOID], np.uint8)
    clips = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 22))
        shape = (draw(st.integers(1, 4)), draw(st.integers(1, 5)))
        flicker = draw(st.sampled_from([0.0, 0.02, 0.2]))

        def sequence(count=count, shape=shape, flicker=flicker):
            frames = [rng.choice(values, shape)]
            for _ in range(count - 1):
                change = rng.random(shape) < flicker
                frames.append(np.where(change, rng.choice(values, shape), frames[-1]))
            return frames

        labels = sequence()
        noise = sequence()
        predictions = [np.where(n % 2 == 0, a, n) for a, n in zip(labels, noise, strict=True)]
        clips.append((predictions, labels))
    return clips, classes


@settings(max_examples=150)
@given(labelled_clips(), st.booleans())
def test_metrics_agree_with_brute_force(clips_and_classes, vspw_script):
    clips, classes = clips_and_classes
    got = score(clips, classes, vspw_script=vspw_script)
    iou, miou, weighted, accuracy = brute_force_iou(clips, classes, vspw_script=vspw_script)
    np.testing.assert_allclose(got.iou, iou, rtol=1e-12)
    np.testing.assert_allclose(
        [got.miou, got.weighted_iou, got.pixel_accuracy], [miou, weighted, accuracy], rtol=1e-12
    )
    for n in (8, 16):
        expected = brute_force_mvc(clips, n, vspw_script=vspw_script)
        np.testing.assert_allclose([got.mvc[n], got.mvc_correct[n]], expected, rtol=1e-12)


def test_iou_by_hand():
    label = np.array([[0, 0, 1, 1], [1, 1, VOID, 2]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [1, 0, 2, VOID]], np.uint8)
    got = score([([prediction], [label])], 4)
    # class 0: 1 hit of {2 true, 2 predicted}; class 1: 3 of {4, 4}; class 2: missed; 3: absent
    assert got.iou[:3] == (1 / 3, 3 / 5, 0.0)
    assert math.isnan(got.iou[3])
    assert got.miou == pytest.approx((1 / 3 + 3 / 5 + 0) / 3)
    assert got.weighted_iou == pytest.approx((2 / 3 + 4 * 3 / 5) / 7)
    assert got.pixel_accuracy == pytest.approx(4 / 7)


def test_miou_counts_a_class_that_is_only_predicted_unless_vspw_script():
    label = np.zeros((1, 4), np.uint8)
    prediction = np.array([[0, 0, 0, 1]], np.uint8)
    assert score([([prediction], [label])], 2).miou == pytest.approx(0.75 / 2)
    assert score([([prediction], [label])], 2, vspw_script=True).miou == 0.75


def test_mvc_by_hand():
    # Two pixels of constant truth over 9 frames; the prediction of one flips on the last frame.
    labels = [np.array([[0, 1]], np.uint8)] * 9
    predictions = [np.array([[0, 0]], np.uint8)] * 8 + [np.array([[1, 0]], np.uint8)]
    got = score([(predictions, labels)], 2)
    assert got.mvc[8] == pytest.approx((1 + 0.5) / 2)
    assert got.mvc_correct[8] == pytest.approx((0.5 + 0) / 2)
    assert math.isnan(got.mvc[16])


def test_mvc_weighs_clips_equally_and_vspw_script_pools_windows():
    still = [np.zeros((1, 1), np.uint8)]
    flip = [np.full((1, 1), i % 2, np.uint8) for i in range(17)]
    clips = [(still * 26, still * 26), (flip, still * 17)]
    assert score(clips, 2).mvc[8] == 0.5
    assert score(clips, 2, vspw_script=True).mvc[8] == pytest.approx(18 / (18 + 9))


def test_mvc_vspw_script_skips_videos_of_16_frames():
    still = [np.zeros((1, 1), np.uint8)]
    assert math.isnan(score([(still * 16, still * 16)], 1, vspw_script=True).mvc[8])
    assert score([(still * 17, still * 17)], 1, vspw_script=True).mvc[16] == 1.0


def test_mvc_void_is_left_out_unless_vspw_script():
    labels = [np.array([[0, VOID]], np.uint8)] * 17
    predictions = [np.array([[0, i % 2]], np.uint8) for i in range(17)]
    assert score([(predictions, labels)], 2).mvc[8] == 1.0
    assert score([(predictions, labels)], 2, vspw_script=True).mvc[8] == 0.5


def test_constant_clip_is_perfectly_consistent_even_when_wrong():
    labels = [np.array([[0, 1], [VOID, 1]], np.uint8)] * 20
    predictions = [np.array([[1, 0], [0, 0]], np.uint8)] * 20
    got = score([(predictions, labels)], 2)
    assert got.mvc == {8: 1.0, 16: 1.0}
    assert got.mvc_correct == {8: 0.0, 16: 0.0}


def test_no_window_reaches_over_a_clip_border_or_an_unlabelled_frame():
    zero, one = np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)
    two_clips = [([zero] * 8, [zero] * 8), ([one] * 8, [zero] * 8)]
    assert score(two_clips, 2).mvc[8] == 1.0
    gap = [([zero] * 8 + [zero] + [one] * 8, [zero] * 8 + [None] + [zero] * 8)]
    got = score(gap, 2)
    assert got.mvc[8] == 1.0
    assert math.isnan(got.mvc[16])
    assert (got.frames, got.labelled_frames) == (17, 16)


@settings(max_examples=30)
@given(labelled_clips(), st.randoms(use_true_random=False))
def test_renaming_classes_permutes_iou_and_keeps_the_rest(clips_and_classes, random):
    clips, classes = clips_and_classes
    order = list(range(classes))
    random.shuffle(order)
    table = np.arange(256, dtype=np.uint8)
    table[:classes] = order
    renamed = [([table[f] for f in p], [table[f] for f in t]) for p, t in clips]
    before, after = score(clips, classes), score(renamed, classes)
    np.testing.assert_array_equal([after.iou[order[i]] for i in range(classes)], before.iou)
    np.testing.assert_allclose(after.miou, before.miou, rtol=1e-12)
    np.testing.assert_array_equal(list(after.mvc.values()), list(before.mvc.values()))


def test_all_void_gives_nan_and_no_warning():
    got = score([([np.zeros((2, 2), np.uint8)] * 9, [np.full((2, 2), VOID, np.uint8)] * 9)], 2)
    assert math.isnan(got.miou)
    assert math.isnan(got.pixel_accuracy)
    assert math.isnan(got.mvc[8])


def test_label_of_another_dataset_is_refused():
    metrics = SegmentationMetrics(11)
    with pytest.raises(DatasetError, match="class 18, but there are 11"):
        metrics.add(np.zeros((1, 1), np.uint8), np.full((1, 1), 18, np.uint8))


def test_prediction_of_another_size_is_refused():
    metrics = SegmentationMetrics(2)
    with pytest.raises(DatasetError, match="bring the prediction"):
        metrics.add(np.zeros((1, 2), np.uint8), np.zeros((1, 1), np.uint8))


def test_frame_score_is_over_the_classes_of_its_label():
    metrics = SegmentationMetrics(3)
    frame = metrics.add(np.array([[0, 2]], np.uint8), np.array([[0, 0]], np.uint8))
    assert frame is not None
    assert (frame.miou, frame.pixel_accuracy) == (0.5, 0.5)


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_iou_and_accuracy_are_those_of_scikit_learns_confusion_matrix(classes, frames, seed):
    from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

    draw = np.random.default_rng(seed)
    labels = [draw.integers(0, classes, (7, 9)).astype(np.uint8) for _ in range(frames)]
    predictions = [
        np.where(draw.random(label.shape) < 0.6, label, draw.integers(0, classes, label.shape))
        for label in labels
    ]
    predictions = [prediction.astype(np.uint8) for prediction in predictions]
    for label in labels:
        label[draw.random(label.shape) < 0.1] = VOID
    got = score([(predictions, labels)], classes)
    truth, guess = np.concatenate([*labels]).ravel(), np.concatenate([*predictions]).ravel()
    guess, truth = guess[truth != VOID], truth[truth != VOID]
    names = list(range(classes))
    counts = confusion_matrix(truth, guess, labels=names)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    expected = jaccard_score(truth, guess, labels=names, average=None, zero_division=0)
    present = union > 0
    np.testing.assert_allclose(np.array(got.iou)[present], expected[present])
    np.testing.assert_allclose(got.miou, (counts.diagonal()[present] / union[present]).mean())
    np.testing.assert_allclose(got.pixel_accuracy, accuracy_score(truth, guess))
    weights = counts.sum(1)
    weighted = np.average(expected[weights > 0], weights=weights[weights > 0])
    np.testing.assert_allclose(got.weighted_iou, weighted)

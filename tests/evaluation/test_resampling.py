"""Intervals and paired tests against SciPy's bootstrap and permutation test."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from streamseg.cli.main import run
from streamseg.errors import DatasetError
from streamseg.evaluation.metrics import ClipScores, MetricOptions, SegmentationMetrics, pool
from streamseg.evaluation.resampling import (
    RESAMPLES,
    compare_pairs,
    confidence_intervals,
    sign_flip_test,
    weighted_scores,
)

CLASSES = 4


def make_clips(
    seed: int, count: int = 6, error: float = 0.3, *, vspw_script: bool = False
) -> tuple[ClipScores, ...]:
    """Clips of 10 to 20 frames with wrong pixels; equal seeds have equal labels."""
    truth, draw = np.random.default_rng(seed), np.random.default_rng([seed, int(error * 1000)])
    options = MetricOptions(windows=(3, 8), boundary=True, vspw_script=vspw_script)
    metrics = SegmentationMetrics(CLASSES, options)
    for clip in range(count):
        metrics.start_clip(f"clip {clip}")
        label = truth.integers(0, CLASSES - clip % 2, (6, 9)).astype(np.uint8)
        for _ in range(10 + 2 * clip):
            wrong = draw.random(label.shape) < error * draw.random()
            guess = np.where(wrong, draw.integers(0, CLASSES, label.shape), label)
            metrics.add(guess.astype(np.uint8), label)
    return metrics.clips()


def as_dict(clips: tuple[ClipScores, ...], *, vspw_script: bool) -> dict[str, float]:
    scores = pool(clips, CLASSES, vspw_script=vspw_script)
    return {
        "miou": scores.miou,
        "weighted_iou": scores.weighted_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mvc3": scores.mvc[3],
        "mvc8_correct": scores.mvc_correct[8],
        "flicker_rate": scores.flicker_rate,
        "boundary_f": scores.boundary_f,
    }


@pytest.mark.parametrize("vspw_script", [False, True])
def test_resampled_scores_are_those_of_the_drawn_clips(vspw_script: bool) -> None:
    clips = make_clips(1, vspw_script=vspw_script)
    draw = np.random.default_rng(5)
    picks = [np.arange(6), *(draw.integers(0, 6, 6) for _ in range(8))]
    drawn = np.array([np.bincount(pick, minlength=6) for pick in picks], float)
    got = weighted_scores(clips, drawn, vspw_script=vspw_script)
    for row, pick in enumerate(picks):
        expected = as_dict(tuple(clips[i] for i in pick), vspw_script=vspw_script)
        for name, value in expected.items():
            assert got[name][row] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_intervals_are_those_of_scipys_percentile_bootstrap() -> None:
    clips = make_clips(2)
    got = confidence_intervals(clips, seed=11)

    def check(name: str, statistic: object) -> None:
        expected = stats.bootstrap(
            (np.arange(len(clips)),),
            statistic,
            n_resamples=RESAMPLES,
            method="percentile",
            vectorized=False,
            rng=np.random.default_rng(11),
        ).confidence_interval
        assert (got[name].low, got[name].high) == pytest.approx(tuple(expected), abs=1e-6)

    check("mvc3", lambda picks: np.mean([clips[i].vc(3) for i in picks]))

    def miou(picks: np.ndarray) -> float:
        counts = sum(clips[i].counts for i in picks)[:, :CLASSES]
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        return float((counts.diagonal()[union > 0] / union[union > 0]).mean())

    check("miou", miou)


def test_one_clip_has_no_interval() -> None:
    assert confidence_intervals(make_clips(3, count=1)) == {}


@pytest.mark.parametrize("count", [2, 5, 10])
def test_sign_flip_test_is_scipys_exact_permutation_test(count: int) -> None:
    draw = np.random.default_rng(count)
    for shift in (0.0, 0.5, -1.0):
        a, b = draw.normal(0, 1, (2, count))
        expected = stats.permutation_test(
            (b + shift, a),
            lambda x, y: np.mean(x - y),
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="two-sided",
        ).pvalue
        # SciPy doubles the smaller tail; for sign flips, which are symmetric, that is the same.
        assert sign_flip_test(b + shift - a) == pytest.approx(min(1.0, expected), abs=1e-6)


def test_drawn_signs_come_close_to_the_exact_test() -> None:
    differences = np.random.default_rng(4).normal(0.3, 1, 20)
    bits = np.arange(2**20)[:, None] >> np.arange(20) & 1
    exact = (np.abs((1 - 2 * bits) @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.01)
    assert math.isnan(sign_flip_test(np.empty(0)))


def test_better_model_wins_the_paired_test() -> None:
    worse, better = make_clips(7, error=0.5), make_clips(7, error=0.05)
    tests = {test.metric: test for test in compare_pairs(worse, better)}
    miou = tests["miou"]
    assert miou.difference == pytest.approx(
        pool(better, CLASSES).miou - pool(worse, CLASSES).miou, abs=1e-9
    )
    assert 0 < miou.interval.low < miou.difference < miou.interval.high
    assert (miou.better, miou.worse, miou.clips) == (6, 0, 6)
    assert miou.p_value == pytest.approx(2 / 2**6)
    same = {test.metric: test for test in compare_pairs(worse, worse)}["miou"]
    assert (same.difference, same.p_value) == (0.0, 1.0)


def test_pairs_need_the_same_clips() -> None:
    with pytest.raises(DatasetError, match="same clips"):
        compare_pairs(make_clips(1, count=3), make_clips(1, count=4))
    with pytest.raises(DatasetError, match="2 clips or more, got 1"):
        compare_pairs(make_clips(1, count=1), make_clips(1, count=1))


def test_command_compares_two_subjects(
    bundle: Path, camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    arguments = ["eval", str(bundle), "--dataset", f"camvid:{camvid}", "--split", "train"]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--against", f"{bundle}@no-native", "--per-clip", "--mvc", "2",
             "--boundary", "--flow", "farneback", "--json", str(out)])  # fmt: skip
    assert code.value.code == 0
    content = json.loads(out.read_text())
    pair = {test["metric"]: test for test in content["pairs"]}
    assert abs(pair["miou"]["difference"]) < 0.01
    assert list(content["results"][0]["clips"]) == ["0001TP", "0016E5"]
    assert set(content["results"][0]["intervals"]) >= {"miou", "mvc2", "tc", "boundary_f"}
    shown = capsys.readouterr().out
    assert "paired sign-flip test" in shown
    assert "Farneback of OpenCV" in shown

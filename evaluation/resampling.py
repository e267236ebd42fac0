"""Uncertainty of scores: bootstrap over clips, and paired tests of two models on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError
from streamseg.evaluation.metrics import ClipScores, clip_consistency, divide

RESAMPLES = 2000
EXACT_CLIPS = 16
"""Up to this many clips every assignment of signs is tried."""
_DRAWN_SIGNS = 20_000
_TIE = 1e-9  # relative; equal sums differ by rounding

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A percentile interval: ``low`` and ``high`` hold ``level`` of the resampled values."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same clips, as b - a.

    Attributes:
        metric: which figure.
        difference: of the figures of the whole set.
        interval: of that difference, clips resampled in pairs.
        clips: how many have the figure.
        better, worse: clips on which b is above and below a.
        p_value: of the paired sign-flip test on the clips' differences, two-sided; NaN without.
    """

    metric: str
    difference: float
    interval: Interval
    clips: int
    better: int
    worse: int
    p_value: float


def draw_clips(count: int, resamples: int = RESAMPLES, *, seed: int = 0) -> Floats:
    """How often each clip is drawn: (resamples, count), each row adds up to ``count``."""
    picked = np.random.default_rng(seed).integers(0, count, (resamples, count))
    drawn = np.zeros((resamples, count))
    np.add.at(drawn, (np.arange(resamples)[:, None], picked), 1)
    return drawn


def weighted_scores(
    clips: Sequence[ClipScores], drawn: Floats, *, vspw_script: bool = False
) -> dict[str, Floats]:
    """The scores of a set in which each clip occurs as often as drawn.

    Args:
        clips: C of them.
        drawn: (R, C).
        vspw_script: as the clips were scored.

    Returns:
        Name -> (R,), the names of ``Evaluation.as_json``; NaN where nothing defines a value.
    """
    hit, truth, guess = (
        drawn @ np.array([part(clip) for clip in clips], np.float64)
        for part in (_hits, _truths, _guesses)
    )
    iou = divide(hit, truth + guess - hit)
    total = truth.sum(1)
    found = {
        "miou": _mean_rows(np.where(truth > 0, iou, np.nan) if vspw_script else iou),
        "weighted_iou": divide(np.nansum(np.where(truth > 0, iou * truth, 0), axis=1), total),
        "pixel_accuracy": divide(hit.sum(1), total),
    }
    for n in clips[0].windows:
        for column, name in enumerate((f"mvc{n}", f"mvc{n}_correct")):
            parts = np.array(
                [clip_consistency(clip, n, column, vspw_script=vspw_script) for clip in clips]
            )
            found[name] = divide(drawn @ parts[:, 0], drawn @ parts[:, 1])
    flicker = np.array([clip.flicker.sum(0) for clip in clips], np.float64)
    found["flicker_rate"] = divide(drawn @ flicker[:, 0], drawn @ flicker[:, 1])
    outlines = np.array([clip.boundary for clip in clips])
    found["boundary_f"] = _mean_rows(divide(drawn @ outlines[..., 0], drawn @ outlines[..., 1]))
    tc = np.array([clip.tc for clip in clips])
    defined = (~np.isnan(tc)).astype(np.float64)
    found["tc"] = divide(drawn @ np.nan_to_num(tc), drawn @ defined)
    return found


def _hits(clip: ClipScores) -> NDArray[np.int64]:
    return np.diag(clip.counts)


def _truths(clip: ClipScores) -> NDArray[np.int64]:
    return np.asarray(clip.counts.sum(1), np.int64)


def _guesses(clip: ClipScores) -> NDArray[np.int64]:
    return np.asarray(clip.counts[:, :-1].sum(0), np.int64)


def _mean_rows(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(1), defined.sum(1))


def _interval(values: Floats, level: float) -> Interval | None:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def confidence_intervals(
    clips: Sequence[ClipScores],
    *,
    vspw_script: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of the scores by bootstrap over clips; empty with fewer than 2 clips.

    Frames of a clip depend on one another, so whole clips are drawn, with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if len(clips) < 2:
        return {}
    drawn = draw_clips(len(clips), seed=seed)
    scores = weighted_scores(clips, drawn, vspw_script=vspw_script)
    found = {name: _interval(values, level) for name, values in scores.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def sign_flip_test(differences: Floats, *, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences under random exchange of each pair.

    All assignments of signs are tried for up to ``EXACT_CLIPS`` differences; else 20,000 are drawn
    and the p-value is (1 + as extreme) / (1 + drawn).

    Args:
        differences: (n,) without NaN.
        seed: of the drawn signs.

    Source: Fisher's randomisation test; Phipson and Smyth (2010) for the drawn one.
    """
    count = len(differences)
    if not count:
        return float("nan")
    exact = count <= EXACT_CLIPS
    if exact:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (_DRAWN_SIGNS, count))
    sums = np.abs((1.0 - 2.0 * bits) @ differences)
    observed = abs(float(differences.sum()))
    extreme = int((sums >= observed * (1 - _TIE)).sum())
    return extreme / len(bits) if exact else (1 + extreme) / (1 + len(bits))


def clip_values(clip: ClipScores) -> dict[str, float]:
    """The figures of one clip that are compared in pairs."""
    values = {"miou": clip.miou, "pixel_accuracy": clip.pixel_accuracy}
    values |= {f"mvc{n}": clip.vc(n) for n in clip.windows}
    return {**values, "flicker_rate": clip.flicker_rate, "tc": clip.tc}


def compare_pairs(
    a: Sequence[ClipScores],
    b: Sequence[ClipScores],
    *,
    vspw_script: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> list[PairedTest]:
    """Test whether model b differs from model a on the same clips.

    Raises:
        DatasetError: the clips are not the same, or fewer than 2.
    """
    if [clip.name for clip in a] != [clip.name for clip in b]:
        raise DatasetError("paired tests need two results on the same clips")
    if len(a) < 2:
        raise DatasetError(f"paired tests need 2 clips or more, got {len(a)}")
    drawn = np.concatenate([np.ones((1, len(a))), draw_clips(len(a), seed=seed)])
    first, second = (weighted_scores(clips, drawn, vspw_script=vspw_script) for clips in (a, b))
    tests = []
    for metric in clip_values(a[0]):
        pairs = np.array(
            [[clip_values(clip)[metric] for clip in pair] for pair in zip(a, b, strict=True)]
        )
        pairs = pairs[~np.isnan(pairs).any(1)]
        resampled = second[metric] - first[metric]
        interval = _interval(resampled[1:], level)
        if interval is None or not len(pairs):
            continue
        gain = pairs[:, 1] - pairs[:, 0]
        tests.append(
            PairedTest(
                metric=metric,
                difference=float(resampled[0]),
                interval=interval,
                clips=len(pairs),
                better=int((gain > 0).sum()),
                worse=int((gain < 0).sum()),
                p_value=sign_flip_test(gain, seed=seed),
            )
        )
    return tests

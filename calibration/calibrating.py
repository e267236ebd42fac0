"""The whole of ``streamseg calibrate``: replay, quantise, measure, write."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamseg.calibration.observation import Ranges, observe
from streamseg.calibration.plan import CalibrationOptions
from streamseg.calibration.quantisation import (
    REPORT,
    Draft,
    LayerError,
    quantise,
    rank_layers,
    write_int8_bundle,
)
from streamseg.calibration.replay import Segment, choose_segments
from streamseg.calibration.report import Report, Subject, render_report
from streamseg.counting import count_of
from streamseg.errors import BundleError, DatasetError, ExportError
from streamseg.evaluation.datasets import Clip, Dataset, open_dataset
from streamseg.evaluation.drift import Comparison, ComparisonOptions, compare
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.evaluation.scores import Evaluation, EvaluationOptions, evaluate, match_dataset
from streamseg.evaluation.segmenter import Array, Output, Segmenter, SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export.fusion import FUSED_PARTS, LAYER_PRECISIONS
from streamseg.export.parity import measure_derived, moving_pattern
from streamseg.runtime.bundle.bundle import (
    Bundle,
    check_target,
    read_bundle,
    read_manifest,
    require_one_stream,
)
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.host import LoadMeter, processor_name

PARITY_FRAMES = 16

Watch = Callable[[str, int | None], Progress]
"""Called with a phase's name and its number of frames; gives what to call after each."""


def no_watch(phase: str, total: int | None) -> Progress:  # noqa: ARG001
    """Show nothing."""
    return no_progress


@dataclass(frozen=True)
class Calibrated:
    """What was written, and what the report shows (None when no report was requested).

    ``parity`` is the manifest's: how far the bundle is from the float32 bundle.
    """

    path: Path
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    ranking: tuple[LayerError, ...]
    report: Report | None
    parity: Mapping[str, Any]
    bytes: int
    float_bytes: int


class TimedSegmenter(Segmenter):
    """A segmenter whose steps are timed.

    Args:
        inner: does the work; closed with this one.
        name: to show in its place.
    """

    def __init__(self, inner: Segmenter, name: str) -> None:
        self._inner = inner
        self.name, self.classes, self.assumed = name, inner.classes, inner.assumed
        self._seconds: list[float] = []

    def step(self, frame: NDArray[np.uint8]) -> Output:
        """Segment a frame; see ``Segmenter.step``."""
        start = time.perf_counter()
        output = self._inner.step(frame)
        self._seconds.append(time.perf_counter() - start)
        return output

    def reset(self) -> None:
        """Zero the state."""
        self._inner.reset()

    def state(self) -> Mapping[str, Array]:
        """Copies of the state tensors."""
        return self._inner.state()

    def close(self) -> None:
        """Close the inner segmenter."""
        self._inner.close()

    def __enter__(self) -> TimedSegmenter:
        return self

    @property
    def median_ms(self) -> float | None:
        """Of a step; None before the first."""
        # The first steps pay for lazy set-up.
        times = self._seconds[2:] or self._seconds
        return statistics.median(times) * 1e3 if times else None


def calibrate(
    source: Path,
    target: Path,
    dataset: Dataset | None,
    options: CalibrationOptions,
    *,
    ranges: Ranges | None = None,
    test: Dataset | None = None,
    also: Sequence[Path] = (),
    report: bool = True,
    watch: Watch = no_watch,
) -> Calibrated:
    """Turn a float32 bundle into an INT8 bundle.

    Args:
        source: the float32 bundle.
        target: folder to write; an older bundle there is replaced once everything else is done.
        dataset: clips to replay; may be None where ``ranges`` are given and nothing else needs it.
        options: how.
        ranges: reuse these instead of replaying.
        test: labelled split for the report's accuracy.
        also: other bundles of the same model (FP16, say) to show in the report.
        report: write ``calibration/report.html`` into the bundle, with plots where matplotlib is
            installed.
        watch: progress, a phase at a time.

    Raises:
        DatasetError: no frames, damaged frames, or none given though needed.
        BundleError: the ranges are of another bundle, one of ``also`` is not a bundle, or the
            target cannot be written or is one of the bundles to read.
        ExportError: the bundle is quantised already.
    """
    # What is wrong with the request is reported before the work, not after it.
    check_target(target)
    for path in (source, *also):
        if path.resolve() == target.resolve():
            raise BundleError(f"{target} is itself a bundle to read; choose another -o")
    columns = ["float32", "INT8", *(_label(path) for path in also)]
    bundle = read_bundle(source)
    require_one_stream(bundle, "calibration")
    found = bundle.manifest.precision_name
    if found not in ("fp32", *LAYER_PRECISIONS):
        raise ExportError(f"{source} is {found} already; calibrate the float32 bundle")
    if test is not None:
        for path in (source, *also):
            _require_classes(path, test, options)
    if dataset is not None and ranges is None:
        _require_clips(bundle.manifest, dataset, options)
    segments = _segments(dataset, options)
    if ranges is None:
        if dataset is None:
            raise DatasetError("calibration needs clips to replay, or ranges to reuse")
        ranges = _observe(bundle, dataset, segments, options, watch)
    ranking: tuple[LayerError, ...] = ()
    if options.keep_float:
        ranking = _rank(bundle, ranges, segments, options, watch)
    kept = [entry.name for entry in ranking[: options.keep_float]]
    quantised = quantise(bundle, ranges, options.method, keep_float=kept)
    pages: list[Report] = []
    parities: list[Mapping[str, Any]] = []

    def finish(draft: Draft) -> Draft:
        draft = _measure_draft(draft, source, segments, options)
        parities.append(draft.manifest.parity)
        if not report:
            return draft
        paths = [source, draft.folder, *also]
        meter = LoadMeter()
        subjects = _measure(columns, paths, segments, test, options, watch)
        precision = draft.manifest.precision
        parts = {part: precision[part] for part in FUSED_PARTS if part in precision}
        record = {**ranges.record, "method": options.method, "kept float": kept, **parts}
        page = Report(
            title=f"{target.name}: INT8 calibration",
            subjects=subjects,
            record=record,
            machine=_machine(options),
            ranking=ranking,
            kept=kept,
            load_note=meter.read().note,
        )
        pages.append(page)
        return draft.add(REPORT, render_report(page))

    write_int8_bundle(target, bundle, quantised, ranges, options.method, finish=finish)
    return Calibrated(
        path=target,
        layers=quantised.layers,
        kept=quantised.kept,
        ranking=ranking,
        report=pages[0] if pages else None,
        parity=parities[0],
        bytes=_graph_bytes(target),
        float_bytes=_graph_bytes(source),
    )


def calibrate_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    dataset: str,
    *,
    split: str = "train",
    test: str | None = None,
    test_split: str = "val",
    options: CalibrationOptions | None = None,
    report: bool = True,
) -> Calibrated:
    """Turn a float32 bundle into an INT8 bundle, as ``streamseg calibrate`` does.

    Args:
        bundle: the float32 bundle.
        out: folder to write.
        dataset: clips to replay with state: ``NAME:ROOT``, or ``footage:PATH`` for any video.
        split: of ``dataset``.
        test: labelled dataset for the report's accuracy.
        test_split: of ``test``.
        options: how many clips and frames, which layers stay in float.
        report: write ``calibration/report.html`` into the bundle.
    Raises:
        DatasetError, BundleError, ExportError: as ``calibrate``.
    """
    return calibrate(
        Path(bundle),
        Path(out),
        open_dataset(dataset, split, labels=False),
        options or CalibrationOptions(),
        test=None if test is None else open_dataset(test, test_split),
        report=report,
    )


def _measure_draft(
    draft: Draft, source: Path, segments: Sequence[Segment], options: CalibrationOptions
) -> Draft:
    """Replace the float32 bundle's parity by the draft's own, against that bundle."""
    frame = draft.manifest.frame
    if segments:
        clip = list(islice(segments[0].images(), PARITY_FRAMES))
    else:
        clip = moving_pattern((frame.height, frame.width), PARITY_FRAMES)
    parity = measure_derived(
        source, draft.folder, clip, native=options.native, threads=options.threads
    )
    return draft.describe(replace(draft.manifest, parity=parity))


def _require_classes(path: Path, test: Dataset, options: CalibrationOptions) -> None:
    """Raise DatasetError where the report could not score the bundle."""
    with _open(path, options) as segmenter:
        match_dataset(segmenter, test, classes_by=options.classes_by)


def _require_clips(manifest: Manifest, dataset: Dataset, options: CalibrationOptions) -> None:
    """Raise DatasetError where no clip is long enough for the state to change anything."""
    stateful = any(spec.kind != "given" for spec in manifest.state)
    if not stateful or options.order == "shuffled":
        return
    if all(clip.frame_count == 1 for clip in dataset.clips):
        advice = (
            f"unpack leftImg8bit_sequence_trainvaltest.zip into {dataset.root}/leftImg8bit_sequence"
            if dataset.name == "cityscapes"
            else "take a dataset of clips"
        )
        raise DatasetError(
            f"{dataset.name} {dataset.split} has only clips of one frame, which do not exercise "
            f"the state: {advice}, or calibrate on any similar video with --dataset footage:VIDEO"
        )


def _segments(dataset: Dataset | None, options: CalibrationOptions) -> list[Segment]:
    if dataset is None:
        return []
    return choose_segments(
        dataset, count=options.clips, length=options.clip_frames, seed=options.seed
    )


def _observe(
    bundle: Bundle,
    dataset: Dataset,
    segments: Sequence[Segment],
    options: CalibrationOptions,
    watch: Watch,
) -> Ranges:
    record = {
        "dataset": dataset.name,
        "split": dataset.split,
        "seed": options.seed,
        "clips": len(segments),
    }
    return observe(
        bundle,
        segments,
        options.backend,
        order=options.order,
        smooth=options.smoothing,
        seed=options.seed,
        record=record,
        progress=watch("replay", None),
    )


def _rank(
    bundle: Bundle,
    ranges: Ranges,
    segments: Sequence[Segment],
    options: CalibrationOptions,
    watch: Watch,
) -> tuple[LayerError, ...]:
    if not segments:
        raise DatasetError("ranking layers needs clips: give --dataset beside --ranges")
    images = list(islice(segments[0].images(), options.rank_frames))
    names = quantise(bundle, ranges, options.method).layers
    progress = watch("rank layers", len(names))
    return tuple(
        rank_layers(bundle, ranges, options.method, images, options.backend, progress=progress)
    )


def _measure(
    names: Sequence[str],
    paths: Sequence[Path],
    segments: Sequence[Segment],
    test: Dataset | None,
    options: CalibrationOptions,
    watch: Watch,
) -> list[Subject]:
    clip = test.clips[0] if test is not None else segments[0].clip if segments else None
    subjects = []
    for name, path in zip(names, paths, strict=True):
        subject = Subject(name, _graph_bytes(path))
        if test is not None:
            scored = _evaluate(path, name, test, options, watch)
            subject = replace(subject, evaluation=scored)
        subjects.append(subject)
    if clip is None:
        return subjects
    for i in range(1, len(paths)):
        comparison, first_ms, second_ms = _drift(paths[0], paths[i], names[i], clip, options, watch)
        subjects[i] = replace(subjects[i], comparison=comparison, step_ms=second_ms)
        if subjects[0].step_ms is None:
            subjects[0] = replace(subjects[0], step_ms=first_ms)
    return subjects


def _label(path: Path) -> str:
    """A bundle's column in the report: its precision and its folder."""
    return f"{read_manifest(path).precision_name.upper()} ({path.name})"


def _open(path: Path, options: CalibrationOptions) -> Segmenter:
    return open_segmenter(path, SegmenterOptions(native=options.native, threads=options.threads))


def _evaluate(
    path: Path, name: str, test: Dataset, options: CalibrationOptions, watch: Watch
) -> Evaluation:
    with _open(path, options) as segmenter:
        segmenter.name = name
        progress = watch(f"evaluate {name}", test.frame_count)
        return evaluate(
            segmenter, test, EvaluationOptions(classes_by=options.classes_by), progress=progress
        )


def _drift(
    first: Path,
    second: Path,
    name: str,
    clip: Clip,
    options: CalibrationOptions,
    watch: Watch,
) -> tuple[Comparison, float | None, float | None]:
    # Both step on the same frames in turn, so that their times are of the same run.
    with (
        TimedSegmenter(_open(first, options), "float32") as a,
        TimedSegmenter(_open(second, options), name) as b,
    ):
        result = compare(
            a,
            b,
            clip,
            ComparisonOptions(frames=options.drift_frames, classes_by=options.classes_by),
            progress=watch(f"drift of {name}", options.drift_frames),
        )
        return result, a.median_ms, b.median_ms


def _graph_bytes(path: Path) -> int:
    return sum(len(content) for content in read_bundle(path).graphs.values())


def _machine(options: CalibrationOptions) -> str:
    threads = options.threads or os.cpu_count() or 1
    return f"{processor_name()}, {count_of(threads, 'thread')}, {platform.system()}"

"""Less work where little changes: labels carried on, and key frames by change and age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from streamseg.counting import count_of
from streamseg.errors import StreamsegError
from streamseg.option_fields import check_options, option
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.step_result import StepResult
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.resize import Image

GRID = (36, 64)  # rows, columns of cells that are compared
SHARE = 0.02  # of the cells: a small object that moves counts, noise in single cells does not
SAMPLES = 4  # pixels looked at along each side of a cell, at most about twice that
STRIDE = 8  # of the logits that confidence is averaged over


@dataclass(frozen=True)
class Adaptation:
    """When less than a whole step is done; everything is off by default.

    Change is measured in levels of 0..255: the difference that 2 % of the cells of a 36x64 grid
    exceed.

    Attributes:
        carry_below: a frame that differs by less from the last one that was segmented gets that
            one's labels, and the state does not see it; ``None`` segments every frame.
        carry_most: frames in a row that get labels so.
        key_change: of a bundle with one graph for key frames and one for those between: a frame
            that differs by as much from the last key frame becomes one, instead of every fifth or
            whatever the bundle's schedule says; ``None`` follows the schedule.
        key_most: frames from one key frame to the next.
        unsure_reset: mean confidence (0 to 1) of a frame's labels below which the state is
            forgotten before the next frame; ``None`` never does. The bundle must give logits.
        unsure_wait: frames after a reset in which this causes no other.

    Raises:
        StreamsegError: a value out of its range.
    """

    carry_below: float | None = option(
        "Carry labels over frames that differ by less than this (0 to 255).",
        default=None,
        above=0,
        metavar="LEVELS",
    )
    carry_most: int = option("Frames in a row whose labels are carried.", default=8, low=1)
    key_change: float | None = option(
        "Choose key frames by this change (0 to 255) instead of by the schedule.",
        default=None,
        above=0,
        metavar="LEVELS",
    )
    key_most: int = option("Frames from one key frame to the next.", default=10, low=1)
    unsure_reset: float | None = option(
        "Reset the state after labels of a lower mean confidence; needs logits.",
        default=None,
        above=0,
        high=1,
        metavar="SHARE",
    )
    unsure_wait: int = option("Frames between two resets by --unsure-reset.", default=25, low=1)

    def __post_init__(self) -> None:
        check_options(self, StreamsegError)


@dataclass(frozen=True)
class Choice:
    """What is done with a frame: its labels are carried on, or ``graph`` (None: the schedule's).

    ``reason`` says why where that differs from what would be done without adaptation.
    """

    carried: bool = False
    graph: str | None = None
    reason: str = ""


class Adapter:
    """Chooses what to do with each frame of one stream.

    Args:
        settings: what may be left out.
        manifest: of the stream's bundle.

    Attributes:
        carried: frames in a row whose labels were carried on.

    Raises:
        StreamsegError: the bundle has no pair of graphs to choose from, or no logits.
    """

    def __init__(self, settings: Adaptation, manifest: Manifest) -> None:
        self._settings = settings
        self._pair = None
        if settings.key_change is not None:
            self._pair = key_pair(manifest)
            if self._pair is None:
                raise StreamsegError(
                    "key_change needs a bundle with one graph for key frames and one for those "
                    f"between; this one has: {', '.join(manifest.graphs)}"
                )
        outputs = [graph.outputs for graph in manifest.graphs.values()]
        if settings.unsure_reset is not None and not all("logits" in names for names in outputs):
            raise StreamsegError(
                "unsure_reset needs logits, which this bundle does not give; export it again "
                "with --logits"
            )
        self.carried = 0
        self._stepped: Image | None = None
        self._key: Image | None = None
        self._age = 0

    def choose(self, image: Image) -> Choice:
        """Take the next frame, (height, width, 3) uint8 RGB."""
        settings = self._settings
        if settings.carry_below is None and self._pair is None:
            return Choice()
        small = shrink(image)
        if settings.carry_below is not None and self._stepped is not None:
            change = difference(small, self._stepped)
            if change < settings.carry_below and self.carried < settings.carry_most:
                self.carried += 1
                return Choice(carried=True, reason=f"change {change:.1f}")
        self.carried, self._stepped = 0, small
        return Choice() if self._pair is None else self._choose_graph(small, self._pair)

    def _choose_graph(self, small: Image, pair: tuple[str, str]) -> Choice:
        key, between = pair
        self._age += 1
        if self._key is None:
            reason = "the first frame"
        elif (change := difference(small, self._key)) >= (self._settings.key_change or 0):
            reason = f"change {change:.1f} of {self._settings.key_change:g}"
        elif self._age >= self._settings.key_most:
            reason = f"{count_of(self._age, 'frame')} since the last"
        else:
            return Choice(graph=between)
        self._key, self._age = small, 0
        return Choice(graph=key, reason=reason)

    def is_unsure(self, result: StepResult, steps: int) -> str:
        """Why the state should be forgotten after this result, ``steps`` after a reset; or ""."""
        least = self._settings.unsure_reset
        if least is None or steps < self._settings.unsure_wait:
            return ""
        logits = result.logits
        assert logits is not None
        sampled = logits[:, ::STRIDE, ::STRIDE].astype(np.float64)
        sure = float((1 / np.exp(sampled - sampled.max(0)).sum(0)).mean())
        return "" if sure >= least else f"mean confidence {sure:.2f}, less than {least:g}"

    def forget(self) -> None:
        """The next frame is segmented, and is a key frame."""
        self._stepped = self._key = None
        self.carried = self._age = 0


def carry_on(stream: Stream, result: StepResult, frame: Image) -> StepResult:
    """A result of ``stream`` as that of one more frame, which no step was made for."""
    labels = result.labels if stream.reuse else result.labels.copy()
    timings = dict.fromkeys(result.timings, 0.0)
    return StepResult(
        labels,
        frame,
        result.classes,
        step=result.step,
        timings=timings,
        placement=result.placement,
        read_logits=partial(stream.read_logits, stream.token),
    )


def key_pair(manifest: Manifest) -> tuple[str, str] | None:
    """Names of the graph of key frames and of that between; None where the choice is not free.

    It is where no state depends on the number of the step, one graph writes all states of key
    frames without reading any, and the other writes none.
    """
    kinds: Mapping[str, str] = {spec.name: spec.kind for spec in manifest.state}
    keys = {name for name, kind in kinds.items() if kind == "key"}
    if len(manifest.graphs) != 2 or not keys or not set(kinds.values()) <= {"key", "given"}:
        return None
    (first, one), (second, other) = manifest.graphs.items()
    for key, between, writer, reader in (
        (first, second, one, other),
        (second, first, other, one),
    ):
        if set(writer.writes) == keys and not keys & set(writer.reads) and not reader.writes:
            return key, between
    return None


def shrink(image: Image) -> Image:
    """``[36, 64, 3]`` uint8, each pixel about the mean of its cell."""
    rows, columns = GRID
    height, width = image.shape[:2]
    stride = max(1, min(height // (SAMPLES * rows), width // (SAMPLES * columns)))
    sampled = np.ascontiguousarray(image[::stride, ::stride])
    return np.asarray(cv2.resize(sampled, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def difference(image: Image, other: Image) -> float:
    """The mean difference over channels, in levels, that ``SHARE`` of the cells exceed."""
    cells = cv2.absdiff(image, other).mean(axis=2).ravel()
    place = len(cells) - 1 - int(SHARE * len(cells))
    return float(np.partition(cells, place)[place])

"""Drawing and writing beside the step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from streamseg.runtime.loop.decoding import QUEUE_LENGTH
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.sinks import SegmentedFrame, Sink
from streamseg.runtime.sources import Frame
from streamseg.runtime.video.accuracy import AccuracyMeter
from streamseg.runtime.video.overlay import Overlay, write_caption
from streamseg.runtime.video.resize import Image

EMPTY: Image = np.empty((0, 0), np.uint8)


@dataclass
class Slot:
    """A frame on its way from the step to the sinks, in buffers that are used again."""

    labels: Image = field(default_factory=lambda: EMPTY)
    picture: Image = field(default_factory=lambda: EMPTY)
    confidence: Image | None = None
    frame: Frame | None = None

    def fill(self, frame: Frame, labels: Image, confidence: Image | None) -> None:
        """Copy a result in; buffers are made anew where the size is another."""
        if self.labels.shape != frame.size:
            self.labels = np.empty(frame.size, np.uint8)
            self.picture = np.empty_like(frame.image)
        np.copyto(self.labels, labels)
        if confidence is not None:
            if self.confidence is None or self.confidence.shape != frame.size:
                self.confidence = np.empty(frame.size, np.uint8)
            np.copyto(self.confidence, confidence)
        self.frame = frame


class Writer(threading.Thread):
    """Draws the overlay and feeds the sinks.

    After a failure it goes on taking slots without using them, so that nobody waits for it.
    """

    def __init__(self, overlay: Overlay, sinks: Sequence[Sink], times: StageTimes) -> None:
        super().__init__(name="streamseg-encode", daemon=True)
        self.error: BaseException | None = None
        self.failed: Sink | None = None
        self.written = 0
        self.free: queue.Queue[Slot] = queue.Queue()
        for _ in range(QUEUE_LENGTH):
            self.free.put(Slot())
        self.needs_confidence = any(sink.needs_confidence for sink in sinks)
        self._needs_picture = any(sink.needs_picture for sink in sinks)
        self._work: queue.SimpleQueue[Slot | Callable[[], None] | None] = queue.SimpleQueue()
        self._overlay, self._sinks, self._times = overlay, sinks, times
        self._meter = (
            AccuracyMeter(overlay.classes) if AccuracyMeter.fits(overlay.classes) else None
        )

    @property
    def accuracy(self) -> AccuracyMeter | None:
        """How right the labels were; None where the source does not know, or other classes."""
        return self._meter if self._meter is not None and self._meter.frames else None

    def submit(self, slot: Slot) -> None:
        """Hand over a filled slot; it comes back through ``free``."""
        self._work.put(slot)

    def do(self, job: Callable[[], None]) -> None:
        """Call ``job`` in this thread after the frames that were submitted, if all were written."""
        self._work.put(job)

    def run(self) -> None:
        """Write what is submitted until ``halt`` is called."""
        while (work := self._work.get()) is not None:
            if self.error is None:
                self._try(partial(self._write, work) if isinstance(work, Slot) else work)
            if isinstance(work, Slot):
                work.frame = None
                self.free.put(work)

    def _try(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self.error = self.error or error

    def _write(self, slot: Slot) -> None:
        frame = slot.frame
        assert frame is not None
        begin = time.perf_counter()
        if self._needs_picture:
            self._overlay.draw(frame.image, slot.labels, slot.picture)
        if self._meter is not None and frame.truth is not None:
            self._meter.add(slot.labels, frame.truth)
            if self._needs_picture:
                write_caption(slot.picture, self._meter.caption)
        drawn = time.perf_counter()
        segmented = SegmentedFrame(
            slot.picture, slot.labels, frame.index, frame.timestamp, slot.confidence
        )
        for sink in self._sinks:
            self.failed = sink
            sink.write(segmented)
        self.failed = None
        if self._needs_picture:
            self._times.add("overlay", drawn - begin)
        self._times.add("encode", time.perf_counter() - drawn)
        self.written += 1

    def halt(self) -> None:
        """Write everything submitted, then stop."""
        self._work.put(None)
        self.join()

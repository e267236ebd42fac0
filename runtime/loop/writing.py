"""Drawing and writing beside the step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from streamseg.errors import SinkError, domain_error
from streamseg.runtime.loop.decoding import QUEUE_LENGTH, do_nothing
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.sinks import SegmentedFrame, Sink
from streamseg.runtime.sources import Frame, Source
from streamseg.runtime.video.overlay import Overlay
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
        """Copy a result in; buffers are made again where the size is another."""
        if self.labels.shape != frame.size:
            self.labels = np.empty(frame.size, np.uint8)
            self.picture = np.empty_like(frame.image)
        np.copyto(self.labels, labels)
        if confidence is not None:
            if self.confidence is None or self.confidence.shape != frame.size:
                self.confidence = np.empty(frame.size, np.uint8)
            np.copyto(self.confidence, confidence)
        self.frame = frame


# Called with a frame, its labels and its picture, which is None where nobody needs one.
Inspect = Callable[[Frame, Image, "Image | None"], None]


def no_inspection(_frame: Frame, _labels: Image, _picture: Image | None) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Outputs:
    """What a stream writes.

    Attributes:
        open_sinks: makes the sinks once the source is open, in the writer's thread.
        overlay: draws the pictures that sinks get.
        inspect: called in the writer's thread with every frame before the sinks get it; it may
            draw into the picture.
    """

    open_sinks: Callable[[Source], Sequence[Sink]]
    overlay: Overlay
    inspect: Inspect = no_inspection


class Writer(threading.Thread):
    """Opens the sinks, draws the overlay, feeds the sinks and completes them.

    After a failure it keeps taking slots without using them, so that nobody waits for it.

    Args:
        outputs: what to write.
        times: gets the seconds of ``overlay`` and ``encode``.
        notify: called in this thread when it can take a frame again.

    Attributes:
        error: the first failure.
        written: frames that all sinks have.
        sentences: what the sinks say of what they hold, once they are complete.
    """

    def __init__(
        self, outputs: Outputs, times: StageTimes, *, notify: Callable[[], None] = do_nothing
    ) -> None:
        super().__init__(name="streamseg-encode", daemon=True)
        self.error: BaseException | None = None
        self.written = 0
        self.sentences: list[str] = []
        self.needs_confidence = False
        self._outputs, self._times, self._notify = outputs, times, notify
        self._needs_picture = False
        self._source: Source | None = None
        self._sinks: Sequence[Sink] = ()
        self._failed: Sink | None = None
        self._on_end: Callable[[], None] = do_nothing
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Slot | Callable[[], None] | None] = queue.SimpleQueue()

    def open(self, source: Source) -> None:
        """Start with the outputs of an open source; returns at once."""
        self._source = source
        self.start()

    @property
    def opened(self) -> bool:
        """Whether ``open`` was called."""
        return self._source is not None

    @property
    def free(self) -> int:
        """Frames that it can take now without waiting; 0 until the sinks are open."""
        return self._free.qsize()

    def write(self, frame: Frame, labels: Image, confidence: Image | None) -> None:
        """Hand over copies of a result; waits until one is ``free``."""
        slot = self._free.get()
        try:
            slot.fill(frame, labels, confidence)
        except BaseException:
            self._free.put(slot)
            raise
        self._work.put(slot)

    def do(self, job: Callable[[], None]) -> None:
        """Call ``job`` in this thread after the frames that were submitted, if all were written.

        Before ``open`` it is called at once.
        """
        if self.opened:
            self._work.put(job)
        else:
            job()

    def run(self) -> None:
        """Write what is submitted until ``finish`` is called, then complete the outputs."""
        assert self._source is not None
        self._try(partial(self._open_sinks, self._source))
        for _ in range(QUEUE_LENGTH):
            self._free.put(Slot())
        self._notify()
        while (work := self._work.get()) is not None:
            if self.error is None:
                self._try(partial(self._write, work) if isinstance(work, Slot) else work)
            if isinstance(work, Slot):
                work.frame = None
                self._free.put(work)
                self._notify()
        self._complete()
        self._on_end()

    def _open_sinks(self, source: Source) -> None:
        self._sinks = self._outputs.open_sinks(source)
        self.needs_confidence = any(sink.needs_confidence for sink in self._sinks)
        self._needs_picture = any(sink.needs_picture for sink in self._sinks)

    def _try(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            where = f"{self._failed.path}: " if self._failed is not None else ""
            self.error = self.error or domain_error(error, SinkError, where)

    def _write(self, slot: Slot) -> None:
        frame = slot.frame
        assert frame is not None
        begin = time.perf_counter()
        if self._needs_picture:
            self._outputs.overlay.draw(frame.image, slot.labels, slot.picture)
        self._outputs.inspect(frame, slot.labels, slot.picture if self._needs_picture else None)
        drawn = time.perf_counter()
        segmented = SegmentedFrame(
            slot.picture, slot.labels, frame.index, frame.timestamp, slot.confidence
        )
        for sink in self._sinks:
            self._failed = sink
            sink.write(segmented)
        self._failed = None
        if self._needs_picture:
            self._times.add("overlay", drawn - begin)
        self._times.add("encode", time.perf_counter() - drawn)
        self.written += 1

    def _complete(self) -> None:
        """Complete the sinks that hold frames, discard the others."""
        for sink in self._sinks:
            if self.written == 0 or sink is self._failed:
                self._try(sink.discard)
            else:
                self._try(partial(self._finish_sink, sink))

    def _finish_sink(self, sink: Sink) -> None:
        self.sentences.append(sink.finish())

    def finish(self, on_end: Callable[[], None]) -> None:
        """Write everything submitted and complete the outputs; returns at once.

        Args:
            on_end: called in this thread when that is done.
        """
        self._on_end = on_end
        self._work.put(None)

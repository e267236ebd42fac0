"""Drawing and writing beside the step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from streamseg.runtime.overlay import Overlay
from streamseg.runtime.resize import Image
from streamseg.runtime.sinks import SegmentedFrame, Sink
from streamseg.runtime.sources import Frame
from streamseg.runtime.times import StageTimes


@dataclass
class Slot:
    """A frame on its way from the step to the sinks, in buffers that are used again."""

    labels: Image
    picture: Image
    frame: Frame | None = None

    def segmented(self) -> SegmentedFrame:
        """What the sinks get."""
        assert self.frame is not None
        return SegmentedFrame(self.picture, self.labels, self.frame.index, self.frame.timestamp)


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
        self._work: queue.Queue[Slot | None] = queue.Queue()
        self._overlay, self._sinks, self._times = overlay, sinks, times

    def submit(self, slot: Slot) -> None:
        """Hand over a filled slot; it comes back through ``free``."""
        self._work.put(slot)

    def run(self) -> None:
        """Write what is submitted until ``halt`` is called."""
        while (slot := self._work.get()) is not None:
            if self.error is None:
                try:
                    self._write(slot)
                except BaseException as error:
                    self.error = error
            slot.frame = None
            self.free.put(slot)

    def _write(self, slot: Slot) -> None:
        assert slot.frame is not None
        begin = time.perf_counter()
        self._overlay.draw(slot.frame.image, slot.labels, slot.picture)
        drawn = time.perf_counter()
        segmented = slot.segmented()
        for sink in self._sinks:
            self.failed = sink
            sink.write(segmented)
        self.failed = None
        self._times.add("overlay", drawn - begin)
        self._times.add("encode", time.perf_counter() - drawn)
        self.written += 1

    def halt(self) -> None:
        """Write everything submitted, then stop."""
        self._work.put(None)
        self.join()

"""Reading a source beside the step."""

from __future__ import annotations

import queue
import threading
import time

from streamseg.runtime.sources import Frame, Source
from streamseg.runtime.times import StageTimes

QUEUE_LENGTH = 4
WAIT = 0.1  # seconds between looks at the stop flag while nothing arrives
PATIENCE = 5.0  # seconds that a source blocked in a read may take to notice the end


class Decoder(threading.Thread):
    """Reads the source into a bounded queue; None marks the end, ``error`` says if a bad one."""

    def __init__(self, source: Source, times: StageTimes) -> None:
        super().__init__(name="streamseg-decode", daemon=True)
        self.frames: queue.Queue[Frame | None] = queue.Queue(QUEUE_LENGTH)
        self.error: BaseException | None = None
        self._source, self._times = source, times
        self._halt = threading.Event()

    def run(self) -> None:
        """Read until the source ends, breaks off or ``halt`` is called."""
        try:
            frames = iter(self._source)
            while not self._halt.is_set():
                begin = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                self._times.add("decode", time.perf_counter() - begin)
                self._offer(frame)
        except BaseException as error:
            self.error = error
        self._offer(None)

    def _offer(self, frame: Frame | None) -> None:
        while not self._halt.is_set():
            try:
                self.frames.put(frame, timeout=WAIT)
            except queue.Full:
                continue
            return

    def halt(self) -> None:
        """Stop reading; a read under way gets ``PATIENCE`` seconds to return."""
        self._halt.set()
        self.join(PATIENCE)

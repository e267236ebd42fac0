"""One source of many: a thread that opens it and reads ahead by very few frames."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from streamseg.runtime.loop.decoding import Decoder, WhenBehind
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.sources import Frame, Source

OpenSource = Callable[[threading.Event], Source]


class Feeder(threading.Thread):
    """Opens a source and reads it for a fleet; whoever steps takes the frames and never waits.

    Args:
        open_source: opens the source, however long that takes; gives up once the event is set.
        when_behind: as ``Decoder``.
        wake: called when there is something to take, and at the end.

    Attributes:
        source: None until it is open.
    """

    def __init__(
        self, open_source: OpenSource, when_behind: WhenBehind | None, wake: Callable[[], None]
    ) -> None:
        super().__init__(name="streamseg-feed", daemon=True)
        self.source: Source | None = None
        self._open_source, self._when_behind, self._wake = open_source, when_behind, wake
        self._quit = threading.Event()
        self._decoder: Decoder | None = None
        self._error: BaseException | None = None
        self._failed = False

    def run(self) -> None:
        """Read until the source ends, fails or ``halt`` is called."""
        try:
            with closing(self._open_source(self._quit)) as source:
                self.source = source
                self._decoder = Decoder(
                    source, StageTimes(), when_behind=self._when_behind, notify=self._wake
                )
                # Called, not started: this is a thread already.
                if not self._quit.is_set():
                    self._decoder.run()
        except BaseException as error:
            self._error = error
        self._failed = self._error is not None
        self._wake()

    @property
    def ready(self) -> bool:
        """Whether a frame waits."""
        return self._decoder is not None and self._decoder.waiting > 0

    def take(self) -> Frame | None:
        """The next frame, None where there is none at the moment."""
        return None if self._decoder is None else self._decoder.take()

    @property
    def over(self) -> bool:
        """Whether no frame is left and none will come; ``error`` says if for a bad reason."""
        return self._failed or (self._decoder is not None and self._decoder.ended)

    @property
    def error(self) -> BaseException | None:
        """Why the source failed."""
        return self._error or (None if self._decoder is None else self._decoder.error)

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced."""
        return 0 if self._decoder is None else self._decoder.dropped

    def halt(self) -> None:
        """Ask the thread to end; returns at once."""
        self._quit.set()
        if self._decoder is not None:
            self._decoder.halt()

"""The outputs of one stream of a fleet, written beside the steps of all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from streamseg.errors import StreamsegError
from streamseg.runtime.loop.fleet import Fleet, FleetFrame, Member
from streamseg.runtime.loop.pipeline import end_sinks
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.loop.writing import Writer
from streamseg.runtime.sinks import Sink
from streamseg.runtime.sources import Source
from streamseg.runtime.video.overlay import Overlay


class MemberWriter:
    """Writes a member's labels in a thread of its own; a slow disk holds up this member only.

    Args:
        fleet: of the member.
        member: its ``hold`` and ``on_leave`` are set.
        overlay: draws the pictures.
        open_sinks: makes the outputs once the source is open; it may raise SinkError.
        on_end: told what was written, in words, when the member left; in another thread.
    """

    def __init__(
        self,
        fleet: Fleet,
        member: Member,
        overlay: Overlay,
        open_sinks: Callable[[Source], Sequence[Sink]],
        on_end: Callable[[str], None],
    ) -> None:
        self._fleet, self._member, self._overlay = fleet, member, overlay
        self._open_sinks, self._on_end = open_sinks, on_end
        self._writer: Writer | None = None
        self._sinks: Sequence[Sink] = ()
        self._ending = threading.Thread(target=self._end, name="streamseg-end", daemon=True)
        member.hold = self._is_full
        member.on_leave = self._ending.start

    def _is_full(self) -> bool:
        return self._writer is not None and self._writer.free.empty()

    def write(self, done: FleetFrame) -> None:
        """Take a result of the member, in the thread that iterates the fleet.

        Where an output fails the member leaves the fleet, and the others go on.
        """
        try:
            writer = self._writer or self._open()
            if writer.error is not None:
                raise writer.error
        except StreamsegError as error:
            self._fleet.remove(done.stream, error)
            return
        slot = writer.free.get()
        confidence = self._member.session.confidence() if writer.needs_confidence else None
        slot.fill(done.frame, done.result.labels, confidence)
        writer.submit(slot)

    def _open(self) -> Writer:
        source = self._member.feeder.source
        assert source is not None
        self._sinks = self._open_sinks(source)
        self._writer = Writer(self._overlay, self._sinks, StageTimes())
        self._writer.start()
        return self._writer

    def _end(self) -> None:
        if self._writer is None:
            return
        self._writer.halt()
        outputs, error = end_sinks(self._sinks, self._writer, self._writer.error)
        for sentence in outputs:
            self._on_end(sentence)
        if error is not None:
            self._on_end(f"{self._member.name}: {error}")

    def join(self) -> None:
        """Wait until the outputs are complete, where the member left."""
        if self._ending.ident is not None:
            self._ending.join()

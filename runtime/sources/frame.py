"""What every source gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from streamseg.runtime.session.events import EventHandler
from streamseg.runtime.video.resize import FittedFrame, Image, Size


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: (height, width, 3) uint8 RGB, C-contiguous, owned by the receiver.
        index: 0 for the first frame that the source delivered.
        timestamp: seconds, from the source; never goes back. A source that was lost for a while
            counts that while in.
        received: when this machine had it, seconds of ``time.monotonic``.
        truth: (height, width) uint8 Cityscapes train ids, where the source knows them: synthetic
            scenes do.
        silence: longest time without a picture, seconds of the source, since the frame before this
            one; frames that were skipped or dropped count as pictures. None where the source
            does not say: the difference of timestamps then counts.
        fitted: the same picture at the model's size, where it was made ahead of the step.
    """

    image: Image
    index: int
    timestamp: float
    received: float = field(default_factory=time.monotonic)
    truth: Image | None = None
    silence: float | None = None
    fitted: FittedFrame | None = None

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]


class Source(Protocol):
    """Frames in order, once. Close it, or use it in a ``with`` statement.

    A frame carries its own size: a source does not stop where the size changes. Frames that are
    skipped or dropped leave no gap in a source's own count: ``Frame.index`` numbers what it
    delivers.
    """

    on_event: EventHandler | None
    """Called with events ``lost`` and ``back``, in the thread that iterates; None: logged."""

    @property
    def name(self) -> str:
        """What messages call it: the address, without passwords."""

    @property
    def detail(self) -> str:
        """What reads and decodes it, a phrase; may be empty."""

    @property
    def fps(self) -> float:
        """Nominal frames a second."""

    @property
    def frame_count(self) -> int | None:
        """How many frames to expect; None when unknown or endless."""

    @property
    def size(self) -> Size:
        """(height, width) of the first frame."""

    @property
    def live(self) -> bool:
        """Frames come at their own time; slow readers should drop some."""

    @property
    def corrupt(self) -> int:
        """Damaged packets and frames skipped so far."""

    @property
    def reconnects(self) -> int:
        """How often it was lost and came back."""

    @property
    def passed_over(self) -> int:
        """Frames left out to keep to the requested rate."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames; raises SourceError where the source fails for good."""

    def stop(self) -> None:
        """End the iteration, from any thread; a read under way ends within its time-out."""

    def close(self) -> None:
        """Stop and release, from any thread, without waiting; harmless when repeated."""

    def __enter__(self) -> Source:
        """Return the source itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the source."""

"""One stream as its viewers see it."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamseg.runtime.loop.stream_metrics import StreamMetrics
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.resize import Image
from streamseg.serving.flicker import FlickerMeter
from streamseg.serving.label_messages import LabelFrame
from streamseg.serving.shots import Shot, ShotEncoder

EVENTS_KEPT = 100


class Viewer:
    """One connected page: holds the newest message that it has not been sent, never more.

    Made and used in the server's event loop.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.compares = False
        self.dropped = 0
        self._shot: bytes | str | None = None
        self._texts: deque[str] = deque(maxlen=EVENTS_KEPT)
        self._wake = wake

    def show(self, shot: bytes | str) -> None:
        """Send this shot next; one that still waits is dropped."""
        self.dropped += self._shot is not None
        self._shot = shot
        self._wake()

    def tell(self, text: str) -> None:
        """Send a text message."""
        self._texts.append(text)
        self._wake()

    def take(self) -> tuple[list[str], bytes | str | None]:
        """What is to be sent now."""
        texts, shot = list(self._texts), self._shot
        self._texts.clear()
        self._shot = None
        return texts, shot


class StreamView:
    """Shows one stream: ``offer`` and ``report`` belong to the thread that steps it.

    Nothing is drawn, compared or encoded while nobody looks.

    Args:
        session: of the stream; buttons act on it.
        metrics: of the stream.
        source: returns what to call the source, without passwords; empty while it is not open.
    """

    def __init__(self, session: Session, metrics: StreamMetrics, source: Callable[[], str]) -> None:
        self.name = session.name
        self.metrics = metrics
        self._source = source
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self.viewers: set[Viewer] = set()
        self.readers: set[Viewer] = set()  # of labels
        self._session = session
        self._lane: Stream | None = None
        self._kept, self._plain = FlickerMeter(), FlickerMeter()
        self._compared = False
        self._lock = threading.Lock()

    def attach(self, viewer: Viewer) -> None:
        """Begin to show the stream to a viewer."""
        with self._lock:
            self.viewers.add(viewer)

    def detach(self, viewer: Viewer) -> None:
        """A viewer left."""
        with self._lock:
            self.viewers.discard(viewer)

    def attach_reader(self, reader: Viewer) -> None:
        """Begin to send the labels to a program."""
        with self._lock:
            self.readers.add(reader)

    def detach_reader(self, reader: Viewer) -> None:
        """A program left."""
        with self._lock:
            self.readers.discard(reader)

    def offer(
        self,
        frame: Frame,
        labels: Image,
        encoder: ShotEncoder,
        publish: Callable[[StreamView, bytes | str], None],
    ) -> None:
        """Take a frame's labels; they are copied, and encoded in the encoder's thread."""
        with self._lock:
            watched, read = bool(self.viewers), bool(self.readers)
            compares = any(viewer.compares for viewer in self.viewers)
        if read:
            runs = LabelFrame(labels.copy(), frame.index, frame.timestamp)
            encoder.submit(f"{self.name}\0labels", runs, lambda message: publish(self, message))
        if compares != self._compared or not watched:
            # Both figures are over the same frames.
            self._kept.clear()
            self._plain.clear()
            self._compared = compares
        if not watched:
            return
        self._kept.add(labels)
        plain = self._step_plain(frame) if compares else None
        shot = Shot(frame.image, labels.copy(), plain, self._figures(frame))
        encoder.submit(self.name, shot, lambda message: publish(self, message))

    def _step_plain(self, frame: Frame) -> Image:
        """Labels of the frame as the first of a video."""
        if self._lane is None:
            self._lane = self._session.stream.sibling()
        self._lane.reset()
        plain = self._lane.step(frame.image).labels
        self._plain.add(plain)
        copied: Image = plain.copy()
        return copied

    def close(self) -> None:
        """Release what the comparison needed; in the thread that steps the stream."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None

    def _figures(self, frame: Frame) -> dict[str, Any]:
        figures = self.metrics.read()
        return {
            "frame": frame.index,
            "time": frame.timestamp,
            "steps": self._session.stream.steps,
            "fps": figures.fps,
            "latency": figures.latency,
            "flicker": [self._kept.mean, self._plain.mean],
        }

    def report(self, event: Event) -> str:
        """Keep an event for the page; gives its message."""
        entry = asdict(event)
        self.events.append(entry)
        return json.dumps({"event": entry})

    def describe(self) -> Mapping[str, Any]:
        """What the list of streams says of this one."""
        figures = self.metrics.read()
        return {
            "name": self.name,
            "source": self._source(),
            "frames": figures.frames,
            "fps": round(figures.fps, 3),
            "latency": figures.latency,
            "resets": figures.resets,
        }

    def request_reset(self) -> Future[Event]:
        """Forget the state before the next frame."""
        return self._session.request_reset("requested on the web page")

    def request_snapshot(self, path: Path) -> Future[Event]:
        """Write the state to ``path`` before the next frame."""
        return self._session.request_snapshot(path)

"""A worker: holds one open bundle and does tasks, one after the other."""

from __future__ import annotations

import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2

from streamseg._version import __version__
from streamseg.batch.results import (
    LABELS,
    OVERLAY,
    TABLE,
    is_complete,
    new_draft,
    publish,
)
from streamseg.batch.tables import TableSink
from streamseg.batch.work import BatchSettings, Task, is_local, open_filesystem
from streamseg.errors import (
    BackendError,
    BundleError,
    PluginNotFound,
    SourceError,
    StreamsegError,
)
from streamseg.runtime.loop.member import MemberOptions
from streamseg.runtime.loop.pipeline import run_stream
from streamseg.runtime.session.events import ResetCause
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import RunJob, Session
from streamseg.runtime.sinks import LabelSink, Sink, VideoSink
from streamseg.runtime.sources import Frame, Source, open_source
from streamseg.runtime.stream import Stream, open_stream
from streamseg.runtime.video.overlay import Overlay

Status = Literal["done", "failed", "unreadable", "crashed", "unusable"]


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        task: which.
        status: ``done``; ``failed`` for a reason that may pass; ``unreadable``: the video itself is
            at fault; ``crashed``: the worker died; ``unusable``: no worker can open the bundle.
        reason: a sentence, where it is not done.
        frames: written.
        seconds: that the worker took.
        damaged: packets and frames of the video left out.
    """

    task: Task
    status: Status
    reason: str = ""
    frames: int = 0
    seconds: float = 0.0
    damaged: int = 0


class Worker:
    """One worker's session; the bundle is opened with the first task."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._stream: Stream | None = None
        cv2.setNumThreads(settings.threads)

    def open(self) -> Stream:
        """The stream, opened once."""
        if self._stream is None:
            chosen = self._settings
            self._stream = open_stream(
                chosen.bundle,
                backend=chosen.backend,
                native=chosen.native,
                library=chosen.library,
                letterbox=chosen.letterbox,
                reuse=True,
                threads=chosen.threads,
                engine=chosen.engine,
                device=chosen.device,
                precision=chosen.precision,
            )
        return self._stream

    def process(self, task: Task) -> Outcome:
        """Do a task; whatever goes wrong is in the outcome."""
        started = time.perf_counter()
        try:
            stream = self.open()
        except (BackendError, BundleError, PluginNotFound) as error:
            return Outcome(task, "unusable", str(error))
        try:
            if is_complete(task.target, task.identity):
                return Outcome(task, "done")
            frames, damaged = self._segment(stream, task, started)
        except SourceError as error:
            return Outcome(task, "unreadable", str(error))
        except StreamsegError as error:
            return Outcome(task, "failed", str(error))
        except Exception as error:
            return Outcome(task, "failed", f"{type(error).__name__}: {error}")
        return Outcome(task, "done", "", frames, time.perf_counter() - started, damaged)

    def _segment(self, stream: Stream, task: Task, started: float) -> tuple[int, int]:
        draft = new_draft(task.drafts)
        try:
            with fetch(task.url) as path, open_source(path) as source:
                frames, resets = segment_video(stream, source, task, draft, self._settings)
                damaged = source.corrupt
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        report = {
            "identity": task.identity,
            "video": task.url,
            "frames": frames,
            "seconds": round(time.perf_counter() - started, 3),
            "damaged": damaged,
            "resets": resets,
            "execution": stream.execution,
            "bundle": self._settings.fingerprint,
            "streamseg": __version__,
        }
        publish(draft, task.target, report)
        return frames, damaged


def segment_video(
    stream: Stream, source: Source, task: Task, folder: Path, settings: BatchSettings
) -> tuple[int, dict[ResetCause, int]]:
    """Segment one video, or the frames of one segment, into ``folder``.

    This is ``streamseg run`` for a file: the same loop, the same state policy.

    Returns:
        Number of frames written, and how often the state was forgotten, by cause.
    """
    stream.reset()
    sessions: list[Session] = []

    def make_session(run_job: RunJob) -> Session:
        policy = StatePolicy(settings.gap_reset, settings.scene_cut)
        sessions.append(Session(stream, policy, name=task.video, run_job=run_job))
        return sessions[0]

    classes = stream.manifest.classes
    sinks: list[Sink] = [TableSink(folder / TABLE, classes, {"video": task.video})]
    try:
        if settings.labels:
            sinks.append(LabelSink(folder / LABELS))
        if settings.video:
            sinks.append(VideoSink(folder / OVERLAY, source.fps))
        options = MemberOptions(first=task.first)
        wanted = SegmentSource(source, task)
        report = run_stream(
            make_session, wanted, Overlay(classes), sinks, options=options, draft=True
        )
    finally:
        for sink in sinks:
            sink.discard()
    return report.frames, dict(sessions[0].resets)


class SegmentSource:
    """The frames of one segment of a video, with their numbers in the video."""

    def __init__(self, source: Source, task: Task) -> None:
        self._source, self._task = source, task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            if self._task.stop is not None and frame.index >= self._task.stop:
                return
            if frame.index >= self._task.warm:
                yield frame


@contextmanager
def fetch(url: str) -> Iterator[str]:
    """A local path of a video; one from elsewhere is copied for as long as it is needed.

    Raises:
        SourceError: it cannot be read.
    """
    filesystem, path = open_filesystem(url)
    if is_local(filesystem):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="streamseg-") as folder:
        local = str(Path(folder) / posixpath.basename(path))
        try:
            filesystem.get_file(path, local)
        except OSError as error:
            raise SourceError(f"cannot read {url}: {error.strerror or error}") from None
        yield local

"""The batch: runs the remaining work list through an executor and records it in the journal."""

from __future__ import annotations

import posixpath
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamseg.batch.executor import Executor
from streamseg.batch.journal import Journal
from streamseg.batch.results import is_complete, join_segments
from streamseg.batch.work import (
    BatchSettings,
    Task,
    Video,
    choose_shard,
    cut_video,
    identify_video,
    is_local,
    list_videos,
    open_filesystem,
)
from streamseg.batch.worker import Outcome
from streamseg.counting import count_of
from streamseg.errors import BackendError, BatchError, SinkError
from streamseg.runtime.bundle.manifest import Manifest

STATE = ".streamseg"  # folder beside the results: journals, drafts, segments
ATTEMPTS = 3


@dataclass(frozen=True)
class BatchPlace:
    """Where a batch writes.

    Attributes:
        output: folder for the results, for fsspec.
        journal: file of this shard's journal.
        drafts: folder for results in the making; local.
        segments: folder for the results of segments until a video's are all there.
    """

    output: str
    journal: Path
    drafts: Path
    segments: str

    @classmethod
    def below(
        cls, output: str, *, shard: tuple[int, int], journal: Path | None, segmented: bool
    ) -> BatchPlace:
        """Lay out a batch's files.

        Raises:
            BatchError: the output is not on this machine, and no journal folder is given or
                segments are requested.
        """
        filesystem, path = open_filesystem(output)
        local = is_local(filesystem)
        if not local and journal is None:
            raise BatchError(f"'{output}' cannot hold a journal; give a folder here with --journal")
        if not local and segmented:
            raise BatchError(f"segments are joined by links, which '{output}' does not have")
        state = Path(path) / STATE if journal is None else journal
        name = f"{shard[0]}-of-{shard[1]}"
        # Drafts are renamed into the output, so they lie on its disk.
        drafts = (Path(path) / STATE if local else state) / "drafts" / name
        output = str(Path(path)) if local else output.rstrip("/")
        return cls(output, state / f"{name}.jsonl", drafts, posixpath.join(output, STATE, "parts"))


@dataclass
class BatchReport:
    """How a batch went.

    Attributes:
        videos: of this shard.
        finished: videos that this batch completed.
        skipped: videos that were complete before.
        frames: segmented by this batch.
        damaged: video -> packets and frames left out.
        failures: video -> reason, for everything that has no results now.
        stopped: ended by a request.
    """

    videos: int = 0
    finished: int = 0
    skipped: int = 0
    frames: int = 0
    damaged: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


@dataclass
class _Open:
    """A video in work: its tasks, and those not done yet."""

    video: Video
    identity: str
    target: str
    tasks: list[Task]
    left: set[str]


OnProgress = Callable[[BatchReport, int, int], None]


class Batch:
    """Runs the videos of one shard; see ``run``.

    Args:
        patterns: paths or globs, for fsspec.
        place: where to write.
        settings: what decides the results.
        manifest: of the bundle.
        shard: this one and how many there are.
        attempts: workers that may die on a task before it is set aside.
        retry: try again what was set aside.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        place: BatchPlace,
        settings: BatchSettings,
        manifest: Manifest,
        *,
        shard: tuple[int, int] = (0, 1),
        attempts: int = ATTEMPTS,
        retry: bool = False,
    ) -> None:
        self._place, self._settings, self._manifest = place, settings, manifest
        self._attempts, self._retry = attempts, retry
        # Overlays of earlier runs are no input, however wide the pattern.
        filesystem, path = open_filesystem(place.output)
        inside = filesystem.unstrip_protocol(path).rstrip("/") + "/"
        found = [video for video in list_videos(patterns) if not video.url.startswith(inside)]
        if not found:
            raise BatchError(
                f"all matching files are in the output folder {place.output}, which is "
                "ignored; write to another folder"
            )
        self.videos = choose_shard(found, *shard)

    def run(
        self,
        executor: Executor,
        *,
        stop: threading.Event | None = None,
        on_progress: OnProgress | None = None,
    ) -> BatchReport:
        """Do what is left, until nothing is left or ``stop`` is set.

        Args:
            executor: does the tasks; not closed.
            stop: ends the batch; tasks in work are dropped and done again next time.
            on_progress: called with the report so far, tasks done and tasks in all.

        Raises:
            BatchError: the journal is in use or cannot be written.
            BackendError: no worker can open the bundle.
        """
        with Journal(self._place.journal) as journal:
            shutil.rmtree(self._place.drafts, ignore_errors=True)
            run = _Run(self, journal)
            for video in self.videos:
                run.plan(video)
            report = run.drive(executor, stop or threading.Event(), on_progress)
            if not report.stopped:
                # What workers that died had begun.
                shutil.rmtree(self._place.drafts, ignore_errors=True)
            return report


class _Run:
    def __init__(self, batch: Batch, journal: Journal) -> None:
        self._batch, self._journal = batch, journal
        self._report = BatchReport(videos=len(batch.videos))
        self._open: dict[str, _Open] = {}
        self._pending: deque[Task] = deque()
        self._done, self._total = 0, 0

    def plan(self, video: Video) -> None:
        """Queue what is left of a video."""
        place, settings = self._batch._place, self._batch._settings
        target = posixpath.join(place.output, video.name)
        identity = identify_video(video, settings)
        if is_complete(target, identity):
            entry = self._journal.find(video.name, identity)
            if entry is None or entry.kind != "done":
                # Killed between the rename and the line, or done by another shard's journal.
                self._journal.record("done", video.name, identity)
            self._report.skipped += 1
            return
        tasks = cut_video(
            video,
            settings,
            self._batch._manifest,
            target=target,
            state=place.segments,
            drafts=str(place.drafts),
        )
        for task in tasks:
            entry = self._journal.find(task.key, task.identity)
            if entry is not None and entry.kind == "set aside" and not self._batch._retry:
                self._report.failures[video.name] = f"set aside before: {entry.reason}"
                return
        left = [task for task in tasks if not is_complete(task.target, task.identity)]
        keys = {task.key for task in left}
        self._open[video.name] = _Open(video, identity, target, tasks, keys)
        self._pending.extend(left)
        self._total += len(left)
        if not left:
            self._close(self._open[video.name])

    def drive(
        self, executor: Executor, stop: threading.Event, on_progress: OnProgress | None
    ) -> BatchReport:
        """Feed the executor until everything is done."""
        running = 0
        while (self._pending or running) and not stop.is_set():
            while self._pending and executor.free:
                task = self._pending.popleft()
                self._journal.record("begun", task.key, task.identity)
                executor.submit(task)
                running += 1
            for outcome in executor.wait(0.5):
                running -= 1
                self._take(outcome)
            if on_progress is not None:
                on_progress(self._report, self._done, self._total)
        self._report.stopped = stop.is_set() and bool(self._pending or running)
        return self._report

    def _take(self, outcome: Outcome) -> None:
        task = outcome.task
        if outcome.status == "unusable":
            raise BackendError(outcome.reason)
        if outcome.status == "crashed" and task.video in self._open:
            self._journal.record("crashed", task.key, task.identity, outcome.reason)
            entry = self._journal.find(task.key, task.identity)
            crashes = entry.crashes if entry else 1
            if crashes < self._batch._attempts:
                self._pending.append(task)
                return
            self._give_up(task, "set aside", f"{outcome.reason}, {count_of(crashes, 'time')}")
        elif outcome.status == "unreadable":
            self._give_up(task, "set aside", outcome.reason)
        elif outcome.status == "failed":
            self._give_up(task, "failed", outcome.reason)
        elif outcome.status == "done":
            self._finish(outcome)
        self._done += 1

    def _give_up(self, task: Task, kind: str, reason: str) -> None:
        self._journal.record(kind, task.key, task.identity, reason)  # type: ignore[arg-type]
        self._report.failures[task.video] = reason
        self._open.pop(task.video, None)
        kept = deque(other for other in self._pending if other.video != task.video)
        self._done += len(self._pending) - len(kept)
        self._pending = kept

    def _finish(self, outcome: Outcome) -> None:
        task = outcome.task
        self._journal.record(
            "done",
            task.key,
            task.identity,
            frames=outcome.frames,
            seconds=round(outcome.seconds, 3),
        )
        self._report.frames += outcome.frames
        if outcome.damaged:
            self._report.damaged[task.video] = outcome.damaged
        work = self._open.get(task.video)
        if work is None:
            return
        work.left.discard(task.key)
        if not work.left:
            self._close(work)

    def _close(self, work: _Open) -> None:
        """All tasks of a video are done."""
        del self._open[work.video.name]
        if len(work.tasks) > 1:
            classes = self._batch._manifest.classes
            try:
                join_segments(work.tasks, work.target, work.identity, classes)
            except SinkError as error:
                self._report.failures[work.video.name] = str(error)
                self._journal.record("failed", work.video.name, work.identity, str(error))
                return
            self._journal.record("done", work.video.name, work.identity)
        self._report.finished += 1

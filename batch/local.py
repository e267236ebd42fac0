"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from streamseg.batch.work import BatchSettings, Task
from streamseg.batch.worker import Outcome, Worker

CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class _Process:
    process: SpawnProcess
    pipe: Connection
    task: Task | None = None


class LocalExecutor:
    """Processes that are started when first needed and take one task after the other.

    Args:
        settings: of the batch.
        workers: how many processes.
    """

    def __init__(self, settings: BatchSettings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._processes: list[_Process] = []

    @property
    def name(self) -> str:
        """How many processes."""
        return f"{self._workers} worker process{'es' if self._workers > 1 else ''}"

    @property
    def free(self) -> int:
        """Workers without a task."""
        return self._workers - sum(entry.task is not None for entry in self._processes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that have a task."""
        found = [entry.process.pid for entry in self._processes if entry.task is not None]
        return [pid for pid in found if pid is not None]

    def _start(self) -> _Process:
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_serve, args=(there, self._settings), daemon=True)
        process.start()
        there.close()
        return _Process(process, here)

    def submit(self, task: Task) -> None:
        """Give a task to a free worker."""
        entry = next((entry for entry in self._processes if entry.task is None), None)
        if entry is None:
            entry = self._start()
            self._processes.append(entry)
        entry.task = task
        # One that died while idle has its pipe closed: ``wait`` finds that and reports the task.
        with contextlib.suppress(OSError):
            entry.pipe.send(task)

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes since the last call; waits at most so long for the first."""
        busy = {entry.pipe: i for i, entry in enumerate(self._processes) if entry.task is not None}
        return [self._receive(busy[pipe]) for pipe in wait(list(busy), seconds)]  # type: ignore[index]

    def _receive(self, index: int) -> Outcome:
        entry = self._processes[index]
        assert entry.task is not None
        try:
            outcome: Outcome = entry.pipe.recv()
        except (EOFError, OSError):
            entry.process.join()
            outcome = Outcome(entry.task, "crashed", _describe_end(entry.process.exitcode))
            entry.pipe.close()
            self._processes[index] = self._start()
        else:
            entry.task = None
        return outcome

    def close(self) -> None:
        """End the workers, in the middle of their tasks where they have one."""
        for entry in self._processes:
            entry.pipe.close()
            if entry.task is not None:
                entry.process.terminate()
        for entry in self._processes:
            entry.process.join(timeout=5)
            if entry.process.is_alive():
                entry.process.kill()
                entry.process.join()
        self._processes = []

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker process was killed by {name}{hint}"
    return f"the worker process exited with code {code}"


def _serve(pipe: Connection, settings: BatchSettings) -> None:
    """A worker process: tasks in, outcomes out, until the pipe closes."""
    # Ctrl-C reaches the whole group; the batch decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    worker = Worker(settings)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(worker.process(task))


def _follow_parent() -> None:
    """End with the batch, even where it was killed: nobody would take the result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

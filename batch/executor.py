"""The executor's interface, and the simplest one: this process."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from streamseg.batch.work import BatchSettings, Task
from streamseg.batch.worker import Outcome, Worker


class Executor(Protocol):
    """Workers that take one task each.

    A worker that dies ends its task with the outcome ``crashed`` and is replaced; trying again is
    the batch's decision.
    """

    @property
    def name(self) -> str:
        """Human-readable: what runs the tasks."""

    @property
    def free(self) -> int:
        """Workers without a task."""

    def submit(self, task: Task) -> None:
        """Give a task to a free worker."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes since the last call; waits at most so long for the first."""

    def close(self) -> None:
        """End the workers, in the middle of their tasks where they have one."""

    def __enter__(self) -> Executor:
        """Return the executor itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""


class InlineExecutor:
    """One worker in this process: a crash of it ends the batch."""

    name = "this process"

    def __init__(self, settings: BatchSettings) -> None:
        self._worker = Worker(settings)
        self._task: Task | None = None

    @property
    def free(self) -> int:
        """1 between tasks."""
        return 0 if self._task else 1

    def submit(self, task: Task) -> None:
        """Keep the task for ``wait``."""
        self._task = task

    def wait(self, seconds: float) -> list[Outcome]:  # noqa: ARG002
        """Do the task."""
        if self._task is None:
            return []
        task, self._task = self._task, None
        return [self._worker.process(task)]

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

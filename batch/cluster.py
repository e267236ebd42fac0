"""Workers on a Ray cluster: one actor each, with one open bundle."""

from __future__ import annotations

import importlib
import os
import re
import socket
from types import TracebackType
from typing import Any

from streamseg.batch.work import BatchSettings, Task
from streamseg.batch.worker import Outcome, Worker
from streamseg.counting import count_of
from streamseg.errors import BatchError
from streamseg.installation import install_command

OBJECT_STORE = 80 << 20  # bytes; only tasks and outcomes travel


def import_ray() -> Any:
    """The ray package, without its usage reports.

    Raises:
        BatchError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BatchError(
            f"Ray is not installed ({error}). Run: {install_command('batch', 'ray')}"
        ) from None


class RayExecutor:
    """Actors that are started once and take one task after the other.

    Args:
        settings: of the batch. Bundle, input and output must be reachable under the same names on
            every node.
        workers: number of actors; ``None`` for as many as the cluster has room for.
        address: of a running cluster, such as ``head:6379`` or ``auto``; ``None`` starts one on
            this machine, which ends with the batch.
        gpus: that an actor asks for; Ray shows it no others.

    Raises:
        BatchError: Ray is not installed, or the cluster cannot be reached or is too small.
    """

    def __init__(
        self,
        settings: BatchSettings,
        workers: int | None = None,
        address: str | None = None,
        *,
        gpus: float = 0,
    ) -> None:
        self._ray = import_ray()
        self._settings = settings
        if address is not None:
            _knock(address)
        try:
            if address is None:
                cpus = workers or max(1, (os.cpu_count() or 1) // settings.threads)
                self._ray.init(
                    address="local",
                    num_cpus=cpus * settings.threads,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            else:
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # what it raises depends on the transport
            place = "a cluster here" if address is None else f"the cluster at {address}"
            token = "" if address is None else "; one with tokens needs RAY_AUTH_MODE=token"
            raise BatchError(f"Ray cannot open {place}: {_first_line(error)}{token}") from None
        resources = self._ray.cluster_resources()
        room = int(resources.get("CPU", 0) / settings.threads)
        if gpus:
            room = min(room, int(resources.get("GPU", 0) / gpus))
        count = workers or room
        if not 1 <= count <= room:
            self.close()
            asked = count_of(settings.threads, "thread") + (f" and {gpus:g} GPUs" if gpus else "")
            raise BatchError(
                f"the Ray cluster has room for {count_of(room, 'worker')} of {asked}, expected "
                f"{max(count, 1)}; give fewer --workers, --threads or --gpus"
            )
        # A dead actor is replaced here, so that its task is tried again only when the batch says.
        self._actor = self._ray.remote(num_cpus=settings.threads, num_gpus=gpus, max_restarts=0)(
            Worker
        )
        self._idle = [self._start() for _ in range(count)]
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._count = count

    def _start(self) -> Any:
        return self._actor.remote(self._settings)

    @property
    def name(self) -> str:
        """How many actors, on how many nodes."""
        nodes = len(self._ray.nodes())
        return f"Ray {self._ray.__version__}, {self._count} actors, {nodes} node(s)"

    @property
    def free(self) -> int:
        """Actors without a task."""
        return len(self._idle)

    def submit(self, task: Task) -> None:
        """Give a task to a free actor."""
        actor = self._idle.pop()
        self._running[actor.process.remote(task)] = (actor, task)

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes since the last call; waits at most so long for the first."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._receive(reference) for reference in ready]

    def _receive(self, reference: Any) -> Outcome:
        actor, task = self._running.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._idle.append(self._start())
            return Outcome(task, "crashed", f"the Ray actor died: {_first_line(error)}")
        self._idle.append(actor)
        return outcome

    def close(self) -> None:
        """End the actors, and the cluster where it was started here."""
        for actor, _ in getattr(self, "_running", {}).values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _knock(address: str) -> None:
    """Raise BatchError at once where nothing listens: Ray itself waits for minutes."""
    match = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if match is None:
        return
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=10).close()
    except OSError as error:
        raise BatchError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); start one with: "
            "ray start --head"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

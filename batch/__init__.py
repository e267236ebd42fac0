"""Archives: a work list of videos, a journal of finished work, and executors that run it.

``batch`` drives; ``work`` lists videos and cuts them into tasks; ``worker`` does one task and
``results`` puts it in place; ``local`` and ``cluster`` (Ray) are the executors behind one
interface. Needs streamseg[batch]: fsspec for files anywhere, pyarrow for tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.batch.cluster import RayExecutor
    from streamseg.batch.executor import Executor, InlineExecutor
    from streamseg.batch.jobs import Batch, BatchPlace, BatchReport
    from streamseg.batch.local import LocalExecutor
    from streamseg.batch.work import BatchSettings

__all__ = [
    "Batch",
    "BatchPlace",
    "BatchReport",
    "BatchSettings",
    "Executor",
    "InlineExecutor",
    "LocalExecutor",
    "RayExecutor",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Batch": "batch.jobs",
        "BatchPlace": "batch.jobs",
        "BatchReport": "batch.jobs",
        "BatchSettings": "batch.work",
        "Executor": "batch.executor",
        "InlineExecutor": "batch.executor",
        "LocalExecutor": "batch.local",
        "RayExecutor": "batch.cluster",
    },
)

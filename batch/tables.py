"""Per-class tables: how many pixels of each class every frame holds, as Parquet."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.counting import count_of
from streamseg.errors import BatchError
from streamseg.installation import install_command
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.sinks import SegmentedFrame
from streamseg.runtime.video.resize import Image

NO_CLASS = 255
ROWS = 1 << 16  # of a row group


def import_pyarrow() -> tuple[Any, Any]:
    """The pyarrow package and its Parquet module.

    Raises:
        BatchError: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BatchError(
            f"tables need pyarrow ({error}). Run: {install_command('batch')}"
        ) from None


class ClassTable:
    """Writes one row for each class that a frame shows.

    Columns: ``frame`` (int64, index in the video), ``time`` (float64, seconds), ``class_id``
    (uint8, 255 = none), ``class`` (name), ``pixels`` (int64, at the frame's size). Sorted by frame,
    then class.

    Args:
        path: of the file.
        classes: of the bundle.
        about: kept in the file's metadata.
    """

    def __init__(
        self, path: Path, classes: Sequence[ClassInfo], about: Mapping[str, str] | None = None
    ) -> None:
        self._arrow, parquet = import_pyarrow()
        self._names = {entry.id: entry.name for entry in classes} | {NO_CLASS: "none"}
        arrow = self._arrow
        columns = [
            ("frame", arrow.int64()),
            ("time", arrow.float64()),
            ("class_id", arrow.uint8()),
            ("class", arrow.string()),
            ("pixels", arrow.int64()),
        ]
        self._schema = arrow.schema(columns, metadata=dict(about or {}))
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[tuple[int, float, int, str, int]] = []

    def add(self, index: int, timestamp: float, labels: Image) -> None:
        """Count the classes of a label map, (height, width) uint8."""
        counts = np.bincount(labels.reshape(-1), minlength=256)
        for value in np.flatnonzero(counts).tolist():
            name = self._names.get(value, str(value))
            self._rows.append((index, timestamp, value, name, int(counts[value])))
        if len(self._rows) >= ROWS:
            self._flush(ROWS)

    def copy(self, path: Path) -> None:
        """Append every row of another such table."""
        parquet = importlib.import_module("pyarrow.parquet")
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                columns = [column.to_pylist() for column in batch.columns]
                self._rows.extend(zip(*columns, strict=True))
                while len(self._rows) >= ROWS:
                    self._flush(ROWS)

    def _flush(self, count: int) -> None:
        chosen, self._rows = self._rows[:count], self._rows[count:]
        columns = list(zip(*chosen, strict=True)) or [()] * len(self._schema)
        arrays = [
            self._arrow.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.table(arrays, schema=self._schema))

    def close(self) -> None:
        """Write what is left."""
        self._flush(len(self._rows))
        self._writer.close()


class TableSink:
    """A ``ClassTable`` as an output of a run."""

    needs_picture = False
    needs_confidence = False

    def __init__(self, path: Path, classes: Sequence[ClassInfo], about: Mapping[str, str]) -> None:
        self.path = path
        self._frames = 0
        self._table: ClassTable | None = ClassTable(path, classes, about)

    def write(self, frame: SegmentedFrame) -> None:
        """Add the rows of one frame."""
        assert self._table is not None
        self._table.add(frame.index, frame.timestamp, frame.labels)
        self._frames += 1

    def finish(self) -> str:
        """Complete the file."""
        self.discard()
        return f"{self.path}: classes of {count_of(self._frames, 'frame')}"

    def discard(self) -> None:
        """Close the file; a table of no frames is one too."""
        table, self._table = self._table, None
        if table is not None:
            table.close()

"""What publications say of the networks in the catalogue, each figure with where it stands."""

from __future__ import annotations

from dataclasses import dataclass, fields

from streamseg.export.published_tables import TABLES, PublishedTable


@dataclass(frozen=True)
class PublishedRow:
    """One row of one table; None where the table prints no value or has no such column.

    Attributes:
        name: of the network in the catalogue.
        table: where the row stands.
        row: its number there, from 1; 0 where it is not known.
        miou, weighted_iou, mvc8, mvc16: in percent.
        gflops, gmacs: 10^9 operations of a frame under the name that the table gives them, which
            does not settle whether a multiply-add counts once or twice.
        parameters_m: 10^6 parameters, with the dataset's classes.
        fps: frames a second, on the GPU of that publication.
    """

    name: str
    table: PublishedTable
    row: int
    miou: float | None = None
    weighted_iou: float | None = None
    mvc8: float | None = None
    mvc16: float | None = None
    gflops: float | None = None
    gmacs: float | None = None
    parameters_m: float | None = None
    fps: float | None = None

    @property
    def work(self) -> float | None:
        """The operations, by whichever name."""
        return self.gmacs if self.gflops is None else self.gflops

    @property
    def place(self) -> str:
        """Paper, table and row."""
        row = f", row {self.row}" if self.row else ""
        return f"{self.table.paper}, {self.table.table}{row}"


FIGURES = tuple(field.name for field in fields(PublishedRow))[3:]
"""Names of the figures of a row."""


PUBLISHED = tuple(
    PublishedRow(table=table, **dict(zip(table.columns, values, strict=True)))
    for table in TABLES
    for values in table.rows
)


def rows_of(name: str) -> tuple[PublishedRow, ...]:
    """The rows of a network, in the order of the publications."""
    return tuple(row for row in PUBLISHED if row.name == name)

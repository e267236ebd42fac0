"""Tables of the publications: the rows of networks that can be built here.

The figures are data: ``published_tables.json`` has the papers by a short name, and for each table
its place, dataset, frame size, columns and rows. A row begins with its number in the table (from 1;
0 where it is not known) and the network's name in the catalogue; null where the table prints no
value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PublishedTable:
    """One table of one publication.

    Attributes:
        paper: name and where it appeared.
        table: as it is called there.
        dataset, split: what the accuracy is of; "not named" where the publication does not say.
        size: (H, W) of the frames that work and frames a second are of; None: it does not say.
        columns: ``row``, ``name`` and names of ``PublishedRow``'s figures, in the table's order.
        rows: values of a row, in the order of ``columns``.
    """

    paper: str
    table: str
    dataset: str
    split: str
    size: tuple[int, int] | None
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


_CONTENT = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
PAPERS: Mapping[str, str] = _CONTENT["papers"]


def _read(entry: dict[str, Any]) -> PublishedTable:
    size = entry["size"]
    return PublishedTable(
        **{name: entry[name] for name in ("table", "dataset", "split")},
        paper=PAPERS[entry["paper"]],
        size=None if size is None else (size[0], size[1]),
        columns=tuple(entry["columns"]),
        rows=tuple(tuple(row) for row in entry["rows"]),
    )


TABLES = tuple(map(_read, _CONTENT["tables"]))

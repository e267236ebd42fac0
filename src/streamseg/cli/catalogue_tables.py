"""The catalogue as text and as JSON: our counts, published figures, and what fits a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from streamseg.cli.catalogue_options import CatalogueOptions
from streamseg.cli.results import write_result
from streamseg.counting import count_of
from streamseg.errors import ExportError
from streamseg.export.catalogue import Cost, ModelRow, known_rows
from streamseg.export.device_fit import (
    Board,
    Measured,
    estimate_ms,
    find_board,
    read_measured,
    roofline_ms,
)
from streamseg.export.published import FIGURES, PublishedRow
from streamseg.export.published_differences import CostTable, Difference
from streamseg.files import STDOUT
from streamseg.redaction import printable

_COSTS = "{:<22}{:>12}{:>15}  {:<30}{}"
_FIGURES = ("miou", "weighted_iou", "mvc8", "mvc16", "work", "parameters_m", "fps")
_HEADS = ("mIoU", "WIoU", "mVC8", "mVC16", "GFLOPs", "params M", "FPS")
_ROW = "  {:<22}" + "{:>9}" * len(_HEADS) + "  {:<26}{}"


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue and what it costs; ``refused`` says why it cannot run."""

    row: ModelRow
    cost: Cost | None
    refused: str = ""

    @property
    def best_miou(self) -> float:
        """The highest published mIoU on VSPW, -1 where there is none."""
        found = [r.miou for r in self.row.published if r.table.dataset == "VSPW" and r.miou]
        return max(found, default=-1.0)


def count_entries(
    rows: Sequence[ModelRow], costs: CostTable, size: tuple[int, int], classes: int
) -> list[Entry]:
    """Count every network, or note why it cannot run at this size."""
    found = []
    for row in rows:
        try:
            found.append(Entry(row, costs.cost(row.name, size, classes)))
        except ExportError as error:
            found.append(Entry(row, None, str(error)))
    return found


def sort_entries(entries: Sequence[Entry], key: str) -> list[Entry]:
    """By family, name, parameters, work, state or miou.

    The largest come first, but for names; those without a value come last.
    """
    if key == "family":
        return list(entries)
    if key == "name":
        return sorted(entries, key=lambda entry: entry.row.name)
    if key == "miou":
        return sorted(entries, key=lambda entry: -entry.best_miou)

    def value(entry: Entry) -> float:
        if entry.cost is None:
            return float("inf")
        cost = entry.cost
        values = {
            "parameters": cost.parameters,
            "work": cost.frame_gmacs,
            "state": cost.state_bytes,
        }
        return -values[key]

    return sorted(entries, key=value)


def _work(cost: Cost) -> str:
    if len(cost.gmacs) == 1:
        return f"{cost.frame_gmacs:.1f}"
    return ", ".join(f"{graph} {value:.1f}" for graph, value in cost.gmacs.items())


def cost_lines(entries: Sequence[Entry], size: tuple[int, int], classes: int) -> Iterator[str]:
    """What each network costs by our own count."""
    yield f"{count_of(classes, 'class')} at {size[0]}x{size[1]}; work in 10^9 multiply-adds a frame"
    yield _COSTS.format("name", "parameters", "state bytes", "work", "paper")
    for entry in entries:
        name, paper, cost = entry.row.name, entry.row.paper, entry.cost
        if cost is None:
            yield _COSTS.format(name, "", "", "", f"{paper}: {entry.refused}")
            continue
        parameters = f"{cost.parameters / 1e6:.3f} M"
        yield _COSTS.format(name, parameters, f"{cost.state_bytes:,}", _work(cost), paper)


def _differences(row: PublishedRow, costs: CostTable) -> dict[str, Difference]:
    return {difference.quantity: difference for difference in costs.compare(row)}


def published_lines(entries: Sequence[Entry], costs: CostTable) -> Iterator[str]:
    """Every published row of the networks by dataset, our counts beside it, and why they differ."""
    rows = [row for entry in entries for row in entry.row.published]
    places = list(dict.fromkeys((row.table.dataset, row.table.split) for row in rows))
    reasons: dict[str, list[str]] = {}
    for dataset, split in places:
        yield ""
        yield f"published, {dataset}, split {split}; FPS on the GPU of each publication"
        yield _ROW.format("name", *_HEADS, "ours: params M, work", "source")
        for row in rows:
            if (row.table.dataset, row.table.split) != (dataset, split):
                continue
            found = _differences(row, costs)
            values = [getattr(row, name) for name in _FIGURES]
            cells = ["-" if value is None else f"{value:g}" for value in values]
            ours = [
                "-"
                if name not in found
                else f"{found[name].ours:.1f} ({found[name].relative:+.0%})"
                for name in ("parameters", "work")
            ]
            yield _ROW.format(row.name, *cells, ", ".join(ours), row.place)
            for difference in found.values():
                if difference.reason:
                    text = f"{row.name}, {row.table.table}: {difference.quantity}"
                    reasons.setdefault(difference.reason, []).append(text)
    if reasons:
        yield ""
        yield "counts that differ by more than 5 %:"
        for reason, names in reasons.items():
            yield f"  {'; '.join(dict.fromkeys(names))}: {reason}"


def entry_json(entry: Entry, costs: CostTable) -> dict[str, Any]:
    """Everything known about one network."""
    published = []
    for row in entry.row.published:
        table = asdict(row.table)
        del table["rows"], table["columns"]
        published.append(
            {
                "paper": table.pop("paper"),
                **table,
                "row": row.row,
                **{name: getattr(row, name) for name in FIGURES},
                "ours": [
                    {**asdict(found), "relative": found.relative} for found in costs.compare(row)
                ],
            }
        )
    cost = entry.cost
    counted = None
    if cost is not None:
        counted = {**asdict(cost), "frame_gmacs": cost.frame_gmacs}
    return {
        "name": entry.row.name,
        "paper": entry.row.paper,
        "counted": counted,
        "refused": entry.refused or None,
        "published": published,
    }


def estimate_lines(entries: Sequence[Entry], measured: Measured, own: Cost) -> Iterator[str]:
    """Times of the networks on the machine of the one that was measured, scaled from it."""
    height, width = measured.size
    where = f", {printable(measured.machine)}" if measured.machine else ""
    yield (
        f"{measured.name} at {height}x{width} on {printable(measured.backend)}{where}: "
        f"{measured.ms:.1f} ms a frame, measured; the others are estimates, scaled by work"
    )
    if measured.doubt:
        yield printable(measured.doubt)
    for entry in sorted(
        (entry for entry in entries if entry.cost is not None),
        key=lambda entry: entry.cost.frame_gmacs if entry.cost else 0.0,
    ):
        assert entry.cost is not None
        if entry.row.name == measured.name:
            yield f"  {entry.row.name:<22}{measured.ms:>10.1f} ms  measured"
        else:
            value = estimate_ms(measured, own, entry.cost)
            yield f"  {entry.row.name:<22}{value:>10.0f} ms  estimate"


def bound_lines(entries: Sequence[Entry], board: Board, size: tuple[int, int]) -> Iterator[str]:
    """Times below which no frame can take on a board that was not measured."""
    yield (
        f"{board.name} at {size[0]}x{size[1]}: lower bounds by roofline, not estimates; real "
        "frames take several times as long. Measure a bundle there with --measured"
    )
    yield (
        f"  peaks: {board.tflops:.2f} 10^12 operations/s, {board.bandwidth:g} GB/s ({board.source})"
    )
    for entry in entries:
        if entry.cost is not None:
            bound = roofline_ms(entry.cost, board)
            yield f"  {entry.row.name:<22}at least {bound:.1f} ms a frame"


def print_catalogue(options: CatalogueOptions, json_path: Path | None) -> None:
    """What ``streamseg models`` shows of the catalogue.

    Raises:
        ExportError: no model matches, or the board or the measured network is not listed.
    """
    measured, board, only = options.measured, options.board, options.only or ""
    size, classes = options.size, options.class_count
    if measured is not None and board is not None:
        raise click.UsageError("--measured cannot be combined with --board")
    rows = [entry for name, entry in known_rows().items() if only in name]
    if not rows:
        raise ExportError(f"no model contains '{only}'; try --only mit_b0")
    costs = CostTable()
    timed = None if measured is None else read_measured(measured)
    if timed is not None:
        size, classes = timed.size, timed.classes
    entries = sort_entries(count_entries(rows, costs, size, classes), options.sort)
    if timed is not None:
        lines = estimate_lines(entries, timed, costs.cost(timed.name, size, classes))
    elif board is not None:
        lines = bound_lines(entries, find_board(board), size)
    else:
        lines = cost_lines(entries, size, classes)
    published_rows = published_lines(entries, costs) if options.published else ()
    for line in (*lines, *published_rows):
        click.echo(line, err=json_path == STDOUT)
    if json_path is not None:
        content = {
            "size": list(size),
            "classes": classes,
            "networks": [entry_json(entry, costs) for entry in entries],
        }
        write_result(content, json_path)

"""Where our own counts differ from published ones by more than 5 %, and why."""

from __future__ import annotations

from dataclasses import dataclass

from streamseg.errors import ExportError
from streamseg.export.catalogue import CLASSES, Cost, measure_cost
from streamseg.export.published import PublishedRow, rows_of
from streamseg.export.step import Size

TOLERANCE = 0.05
_CITYSCAPES_CLASSES = 19
UNEXPLAINED = (
    "not explained: the publication does not say how it counts, and neither one nor two "
    "operations a multiply-add, with or without the encoder's attention products, gives its figure"
)
# Of parameters; each was checked by building the variant or by the tables themselves.
_OTHER_CONFIGURATION = (
    "for Cityscapes the publication has another configuration (2 references, 4 scales) than for "
    "VSPW, which is the one built here"
)
_PARAMETER_REASONS = {
    "segformer/mit_b2": "the publication's decoder has 256 channels, SegFormer's own has 768",
    "mpvss/swin_t": (
        "probably a misprint: it prints more for Swin-T than for Swin-S, and 66.6 M more than for "
        "Mask2Former with Swin-T, where the other sizes have 39 to 41 M more"
    ),
}


@dataclass(frozen=True)
class Difference:
    """One published count against ours.

    Attributes:
        quantity: "parameters" or "work".
        published, ours: 10^6 parameters, or 10^9 multiply-adds a frame.
        reason: why they differ by more than 5 %; empty where they do not.
    """

    quantity: str
    published: float
    ours: float
    reason: str = ""

    @property
    def relative(self) -> float:
        """``ours / published - 1``."""
        return self.ours / self.published - 1


def counting_places(row: PublishedRow) -> list[tuple[Size, int]]:
    """Frame sizes, best first, and the number of classes at which a row is counted again.

    Empty where the publication names no size. Some networks do not take 853 columns; they are
    counted with 864.
    """
    size = row.table.size
    if size is None:
        return []
    classes = CLASSES if row.table.dataset == "VSPW" else _CITYSCAPES_CLASSES
    return [(size, classes), *([((480, 864), classes)] if size == (480, 853) else [])]


def _differs(ours: float, published: float) -> bool:
    return abs(ours / published - 1) > TOLERANCE


def _parameter_reason(row: PublishedRow) -> str:
    if row.name.startswith("mrcfa/") and row.table.dataset == "Cityscapes":
        return _OTHER_CONFIGURATION
    return _PARAMETER_REASONS.get(row.name, "not explained")


def _work_reason(row: PublishedRow, cost: Cost) -> str:
    elsewhere = {
        other.table.size
        for other in rows_of(row.name)
        if other.work == row.work and other.table.size not in (None, row.table.size)
    }
    if elsewhere and row.table.size is not None:
        sizes = sorted({row.table.size, *(size for size in elsewhere if size)})
        printed = " and for ".join(f"{height}x{width}" for height, width in sizes)
        return f"publications contradict each other: they print this figure for {printed}"
    whole, rest = cost.frame_gmacs, cost.frame_gmacs - cost.frame_attention_gmacs
    ways = {
        "it leaves out the encoder's attention products": rest,
        "it counts two operations a multiply-add": 2 * whole,
        "it counts two operations a multiply-add and leaves out the encoder's attention products": 2
        * rest,
    }
    assert row.work is not None
    reasons = [way for way, value in ways.items() if not _differs(value, row.work)]
    if reasons:
        return f"agrees with ours if {reasons[0]}"
    others = {
        other.work
        for other in rows_of(row.name)
        if other.table.size == row.table.size and other.work and _differs(other.work, row.work)
    }
    printed = ", ".join(f"{value:g}" for value in sorted(others))
    return f"{UNEXPLAINED}; other publications print {printed}" if others else UNEXPLAINED


def compare_row(row: PublishedRow, cost: Cost) -> list[Difference]:
    """Our counts beside those of a row."""
    found = []
    millions = cost.parameters / 1e6
    if row.parameters_m is not None:
        differs = _differs(millions, row.parameters_m)
        why = _parameter_reason(row) if differs else ""
        found.append(Difference("parameters", row.parameters_m, millions, why))
    if row.work is not None:
        why = _work_reason(row, cost) if _differs(cost.frame_gmacs, row.work) else ""
        found.append(Difference("work", row.work, cost.frame_gmacs, why))
    return found


class CostTable:
    """Costs by network, size and classes, each counted once."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, Size, int], Cost | ExportError] = {}

    def cost(self, name: str, size: Size, classes: int) -> Cost:
        """As ``measure_cost``.

        Raises:
            ExportError: the network cannot run at this size.
        """
        key = (name, size, classes)
        if key not in self._costs:
            try:
                self._costs[key] = measure_cost(name, size, classes=classes)
            except ExportError as error:
                self._costs[key] = error
        found = self._costs[key]
        if isinstance(found, ExportError):
            raise found
        return found

    def compare(self, row: PublishedRow) -> list[Difference]:
        """``compare_row`` at the first of the ``counting_places`` that the network takes."""
        for place in counting_places(row):
            try:
                return compare_row(row, self.cost(row.name, *place))
            except ExportError:
                continue
        return []

"""What ``streamseg models`` lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamseg.option_fields import option

Sort = Literal["family", "name", "parameters", "work", "state", "miou"]


@dataclass(frozen=True, kw_only=True)
class CatalogueOptions:
    """Which models are listed, and with which figures.

    Attributes:
        only: part of the names; empty lists all.
        size: (H, W) of the frame that costs are counted for.
        class_count: classes that costs are counted for.
        sort: order of the list.
        published: show all published figures.
        measured: bundle that is timed, to estimate the other models.
        board: name of a board whose lower bounds are shown.
    """

    only: str | None = option(
        "Only models whose name contains this, e.g. cffm or mit_b1.", default=None, common=True
    )
    size: tuple[int, int] = option("Frame size of the model.", default=(480, 864), common=True)
    class_count: int = option("Number of classes.", default=124, low=1, high=255, common=True)
    sort: Sort = option(
        "Order of the list; miou is the highest published on VSPW.", default="family", common=True
    )
    published: bool = option(
        "Show all published figures, with paper, table and row.", default=False
    )
    measured: Path | None = option(
        "Estimate the models from this bundle, timed here, or from a file of 'bench --json'.",
        default=None,
        metavar="BUNDLE",
    )
    board: str | None = option(
        "Lower bounds for a board without measurement, e.g. jetson-orin-nano-8gb.", default=None
    )

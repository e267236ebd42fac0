"""The choices of ``streamseg export`` are those that the exporter has."""

from __future__ import annotations

from typing import get_args

from streamseg.export.bundles import LAYER_PRECISIONS, PRECISIONS
from streamseg.export.export_options import SMOOTHED, Precision
from streamseg.export.smoothing import PRESETS


def test_choices_are_those_of_the_exporter() -> None:
    assert get_args(Precision) == (*PRECISIONS, *LAYER_PRECISIONS)
    assert tuple(PRESETS) == SMOOTHED

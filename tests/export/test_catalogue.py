"""The catalogue: every entry can be built, counted and, on small frames, exported."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from streamseg.cli.models import command
from streamseg.errors import ExportError
from streamseg.export.catalogue import CATALOGUE, build_entry, measure_cost
from streamseg.export.families import FAMILIES
from streamseg.export.published import PUBLISHED, Published

SIZE = (480, 864)
# Millions at 124 classes, as published.
PARAMETERS = {
    "cffm/mit_b0": 4.673,
    "cffm/mit_b1": 15.483,
    "cffm++/mit_b0": 5.693,
    "cffm++/mit_b1": 16.503,
    "mrcfa/mit_b0": 5.298,
    "mrcfa/mit_b1": 16.338,
}


@pytest.mark.parametrize(("name", "millions"), PARAMETERS.items())
def test_published_parameters(name: str, millions: float) -> None:
    assert round(measure_cost(name, SIZE).parameters / 1e6, 3) == millions


def test_propagation_takes_at_most_a_third_of_a_key_frame() -> None:
    cost = measure_cost("mpvss/resnet50", SIZE)
    assert round(cost.parameters / 1e6, 1) == 84.1
    assert 3 * cost.gmacs["propagate"] <= cost.gmacs["key"]


def test_temporal_parts_cost_more_than_their_trunk() -> None:
    trunk = measure_cost("segformer/mit_b0", SIZE)
    assert trunk.state_bytes == 0
    for name in ("tv3s/mit_b0", "cffm/mit_b0", "mrcfa/mit_b0"):
        cost = measure_cost(name, SIZE)
        assert cost.gmacs["step"] > trunk.gmacs["step"]
        assert cost.state_bytes > 0


def test_encoders_are_counted_apart() -> None:
    trunk, video = measure_cost("segformer/mit_b0", SIZE), measure_cost("tv3s/mit_b0", SIZE)
    assert trunk.encoder_gmacs["step"] == video.encoder_gmacs["step"]
    assert 0 < trunk.encoder_gmacs["step"] < trunk.gmacs["step"]
    assert measure_cost("mpvss/resnet50", SIZE).encoder_gmacs["propagate"] == 0


def test_published_figures_name_known_entries_and_their_source() -> None:
    assert set(PUBLISHED) <= set(CATALOGUE)
    for figures in PUBLISHED.values():
        assert figures.source
        assert replace(figures, source="") != Published()
    assert CATALOGUE["mrcfa/mit_b5"].accuracy == "49.9 mIoU, VSPW (hyper.ai/en/papers/2207.10436)"
    assert CATALOGUE["mrcfa/mit_b0"].accuracy == "not verified"


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        (name, figures.parameters_m)
        for name, figures in PUBLISHED.items()
        if figures.gflops_cityscapes and figures.parameters_m
    ],
)
def test_published_parameters_at_19_classes(name: str, millions: float) -> None:
    ours = measure_cost(name, SIZE, classes=19).parameters / 1e6
    assert ours == pytest.approx(millions, rel=0.1)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("mpvss/")])
def test_mpvss_works_as_much_as_published(name: str) -> None:
    """One key frame in five, on both datasets: the published figures are means of the schedule."""
    figures = PUBLISHED[name]
    for size, classes, published in (
        ((1024, 2048), 19, figures.gflops_cityscapes),
        ((480, 864), 124, figures.gflops_vspw),
    ):
        work = measure_cost(name, size, classes=classes).gmacs
        assert (work["key"] + 4 * work["propagate"]) / 5 == pytest.approx(published, rel=0.02)


def test_every_family_is_listed() -> None:
    assert {name.partition("/")[0] for name in CATALOGUE} == {family.name for family in FAMILIES}


def test_unknown_entry_and_size_are_refused() -> None:
    with pytest.raises(ExportError, match="not in the catalogue; it has: segformer/mit_b0"):
        build_entry("cffm/mit_b9")
    with pytest.raises(ExportError, match="480x864"):
        measure_cost("mrcfa/mit_b0", (480, 853))


def test_command_lists_costs_and_reasons() -> None:
    result = CliRunner().invoke(command, ["--only", "mrcfa/mit_b0", "--size", "96x128"])
    assert result.exit_code == 0, result.output
    assert "5.298 M" in result.output
    assert "single" in result.output
    assert "step" in result.output
    assert "arXiv 2207.10436" in result.output
    assert "not verified" in result.output
    refused = CliRunner().invoke(command, ["--only", "mrcfa/mit_b0", "--size", "480x853"])
    assert "480x864" in refused.output
    nothing = CliRunner().invoke(command, ["--only", "xyz"])
    assert isinstance(nothing.exception, ExportError)

"""Sizes without waste and their costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from streamseg.cli.main import run
from streamseg.errors import ExportError
from streamseg.export import save_checkpoint
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.models.vit import VitSizes
from streamseg.export.size_advice import advise, cost_of, nearest_sizes, propose
from tests.export import tiny

SIZE = (72, 104)  # a map of 9 x 13 for windows of 4 x 4


@pytest.fixture(scope="module")
def model() -> TV3S:
    built = tiny.build("tv3s")
    assert isinstance(built, TV3S)
    return built


def test_neighbours_waste_nothing_and_enclose_the_size(model: TV3S) -> None:
    lower, upper = nearest_sizes(model, SIZE)
    assert (lower, upper) == ((64, 96), (96, 128))
    assert model.enlargement(SIZE) == pytest.approx(12 * 16 / (9 * 13) - 1)
    assert model.enlargement(lower) == model.enlargement(upper) == 0
    assert nearest_sizes(model, lower) == ()


def test_work_is_torchs_count_of_a_real_step(model: TV3S) -> None:
    frame = torch.zeros((1, *SIZE, 3), dtype=torch.uint8)
    folded = model.fold()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        folded.run_graph("step", frame, *model.initial_state(SIZE))
    assert cost_of(model, SIZE).gmacs == pytest.approx(counter.get_total_flops() / 2e9)


def test_advice_names_cheaper_and_dearer_sizes_with_their_cost(model: TV3S) -> None:
    here, lower, upper = advise(model, SIZE)
    assert here.startswith("72x104: ")
    assert here.endswith("64% enlarged")
    assert lower.startswith("without waste 64x96: ")
    assert "of 72x104's for 0.82 of its pixels" in lower
    assert upper.startswith("without waste 96x128: ")
    assert advise(model, (64, 96)) == []


def test_proposals_waste_nothing(model: TV3S) -> None:
    lines = propose(model)
    assert len(lines) >= 3
    assert not any("enlarged" in line for line in lines)


VITS = {
    "dinov3": VitSizes("dinov3", 64, 4, 96, 16, registers=2),
    "dinov2": VitSizes("dinov2", 64, 4, 128, 14, side=3),
}


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("family", ["segformer", "tv3s"])
def test_sizes_for_encoders_of_patches_are_multiples_and_run(family: str, kind: str) -> None:
    torch.manual_seed(0)
    blocks = BlocksConfig(
        16, layers=2, d_inner=16, d_state=4, dt_rank=1, window=(2, 2), shift=(1, 1)
    )
    model = (
        SegFormer(SegFormerConfig(VITS[kind], 16, 3))
        if family == "segformer"
        else TV3S(TV3SConfig(VITS[kind], blocks, 3))
    ).eval()
    found = [line.split(":")[0] for line in propose(model)]
    assert len(found) >= 2
    for text in found:
        height, width = map(int, text.split("x"))
        assert height % VITS[kind].patch == width % VITS[kind].patch == 0
        assert model.enlargement((height, width)) == 0
    height, width = (2 * extent for extent in model.size_step)
    with torch.no_grad():
        frame = torch.zeros((1, height, width, 3), dtype=torch.uint8)
        model.run_graph("step", frame, *model.initial_state((height, width)))
    with pytest.raises(ExportError, match=f"needs multiples of {VITS[kind].patch}, such as"):
        advise(model, (100, 101))


@pytest.mark.parametrize("size", [(1, 1), (4, 64), (64, 4)])
def test_sizes_that_are_too_small_are_refused(model: TV3S, size: tuple[int, int]) -> None:
    with pytest.raises(ExportError, match=f"size {size[0]}x{size[1]} is not possible"):
        advise(model, size)


def test_network_of_one_size_names_it() -> None:
    (line,) = propose(tiny.build("videomt"))
    assert "this network was trained at 64x96" in line


def test_networks_on_a_grid_are_proposed_sizes_of_it() -> None:
    lines = propose(tiny.build("mrcfa"))
    assert lines[0].startswith("352x640: ")


def test_export_without_a_size_proposes_and_makes_nothing(
    model: TV3S, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    arguments = ["export", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "b")]
    with pytest.raises(SystemExit, match="2"):
        run(arguments)
    said = capsys.readouterr()
    assert "GMACs" in said.out
    assert "missing --size HxW; see the lines above" in said.err
    assert not (tmp_path / "b").exists()


def test_models_shows_the_cost_of_a_size(
    model: TV3S, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    arguments = ["models", str(tmp_path / "x.safetensors"), "--size", "72x104"]
    with pytest.raises(SystemExit, match="0"):
        run(arguments)
    assert "without waste 64x96: " in capsys.readouterr().out


def test_models_proposes_sizes_for_a_network_of_one_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default size of the list is not the network's."""
    save_checkpoint(tiny.build("videomt"), tmp_path / "x.safetensors")
    with pytest.raises(SystemExit, match="0"):
        run(["models", str(tmp_path / "x.safetensors")])
    assert "this network was trained at 64x96" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option",
    [
        *(["--only", "x"], ["--class-count", "3"], ["--sort", "work"], ["--published"]),
        *(["--measured", "b"], ["--board", "x"], ["--json", "x.json"]),
    ],
    ids=lambda option: option[0],
)
def test_models_rejects_options_of_the_list_for_a_checkpoint(
    model: TV3S, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    with pytest.raises(SystemExit, match="2"):
        run(["models", str(tmp_path / "x.safetensors"), *option])
    assert f"{option[0]} does not apply to a CHECKPOINT" in capsys.readouterr().err

"""Sizes without waste and their costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from streamseg.cli.main import run
from streamseg.export import save_checkpoint
from streamseg.export.models.tv3s import TV3S
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
    import torch

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


def test_export_without_a_size_proposes_and_makes_nothing(
    model: TV3S, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    arguments = ["export", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "b")]
    with pytest.raises(SystemExit, match="2"):
        run(arguments)
    said = capsys.readouterr()
    assert "GMACs" in said.out
    assert "missing --size HxW; the sizes above waste no work" in said.err
    assert not (tmp_path / "b").exists()


def test_models_shows_the_cost_of_a_size(
    model: TV3S, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    arguments = ["models", str(tmp_path / "x.safetensors"), "--size", "72x104"]
    with pytest.raises(SystemExit, match="0"):
        run(arguments)
    assert "without waste 64x96: " in capsys.readouterr().out


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

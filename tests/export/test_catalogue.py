"""The catalogue: every entry can be built, counted and, on small frames, exported."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode

from streamseg.cli.catalogue_tables import Entry, sort_entries
from streamseg.cli.models import command
from streamseg.errors import ExportError
from streamseg.export.catalogue import CATALOGUE, Cost, build_entry, measure_cost
from streamseg.export.families import FAMILIES
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.published import FIGURES, PUBLISHED, PublishedRow, rows_of
from streamseg.export.published_differences import CostTable, compare_row, counting_places
from streamseg.export.published_tables import PAPERS
from tests.conftest import SHARED

TV3S, CFFM_PLUS, MPVSS, MRCFA = (PAPERS[name] for name in ("TV3S", "CFFM_PLUS", "MPVSS", "MRCFA"))
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


def row_of(name: str, paper: str, table: str) -> PublishedRow:
    found = [r for r in rows_of(name) if r.table.paper == paper and r.table.table == table]
    assert len(found) == 1
    return found[0]


@cache
def mpvss_cost(name: str, size: tuple[int, int], classes: int) -> Cost:
    return measure_cost(name, size, classes=classes)


@pytest.mark.parametrize(
    "row",
    [row for row in PUBLISHED if row.name.startswith("mpvss/") and row.table.paper == MPVSS],
    ids=lambda row: f"{row.name} {row.table.dataset}",
)
def test_mpvss_works_as_much_as_published(row: PublishedRow) -> None:
    """One key frame in five: the published figures are means of the schedule."""
    size, classes = counting_places(row)[-1]
    cost = mpvss_cost(row.name, size, classes)
    assert cost.steady == {"key": 0.2, "propagate": 0.8}
    assert cost.frame_gmacs == pytest.approx(row.work, rel=0.02)
    by_hand = (cost.gmacs["key"] + 4 * cost.gmacs["propagate"]) / 5
    assert cost.frame_gmacs == pytest.approx(by_hand, rel=1e-12)


def test_attention_products_of_an_encoder_are_those_of_its_geometry() -> None:
    """MiT-B1: two blocks a stage, keys and values reduced by 8, 4, 2 and 1 a side."""
    height, width = 480, 864
    expected = 0.0
    for stage, (channels, reduction) in enumerate(((64, 8), (128, 4), (320, 2), (512, 1))):
        stride = 4 << stage
        tokens = (height // stride) * (width // stride)
        expected += 2 * 2 * tokens * (tokens / reduction**2) * channels
    cost = measure_cost("segformer/mit_b1", (height, width))
    assert cost.frame_attention_gmacs == pytest.approx(expected / 1e9, rel=1e-6)


def test_differences_over_five_percent_have_a_reason() -> None:
    costs = CostTable()
    rows = {
        "agree": row_of("mask2former/resnet50", MPVSS, "table 1"),
        "two operations": row_of("segformer/mit_b0", CFFM_PLUS, "table 1"),
        "decoder": row_of("segformer/mit_b2", CFFM_PLUS, "table 1"),
    }
    found = {key: {d.quantity: d for d in costs.compare(row)} for key, row in rows.items()}
    contradiction = compare_row(
        row_of("mrcfa/mit_b1", MPVSS, "table 2"), costs.cost("segformer/mit_b0", SIZE, 19)
    )
    assert "they print this figure for 512x1024 and for 1024x2048" in contradiction[1].reason
    assert "2 references, 4 scales" in contradiction[0].reason
    assert [d.reason for d in found["agree"].values()] == ["", ""]
    assert "two operations a multiply-add" in found["two operations"]["work"].reason
    assert "256 channels" in found["decoder"]["parameters"].reason
    for differences in found.values():
        for difference in differences.values():
            assert bool(difference.reason) == (abs(difference.relative) > 0.05)


def test_segformer_b2_with_the_decoder_of_256_channels_has_the_published_parameters() -> None:
    published = row_of("segformer/mit_b2", CFFM_PLUS, "table 1").parameters_m
    with FakeTensorMode():
        model = SegFormer(SegFormerConfig(ENCODER_PRESETS["mit_b2"], 256, 124))
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(published, rel=0.01)


PAPERS = SHARED / "papers.md"
METHODS = {
    "SegFormer": "segformer",
    "CFFM": "cffm",
    "CFFM++": "cffm++",
    "MRCFA": "mrcfa",
    "TV3S": "tv3s",
    "Mask2Former": "mask2former",
    "MPVSS": "mpvss",
}
BACKBONES = {"R50": "resnet50", "R101": "resnet101"}
BACKBONES |= {f"Swin-{size}": f"swin_{size.lower()}" for size in "TSBL"}
BACKBONES |= {f"MiT-B{i}": f"mit_b{i}" for i in range(6)}
SEEDS = {"000": TV3S, "002": CFFM_PLUS, "003": MPVSS, "004": MRCFA}
COLUMNS = {
    "mIoU": "miou",
    "WIoU": "weighted_iou",
    "mVC8": "mvc8",
    "mVC16": "mvc16",
    "GFLOPs": "gflops",
    "MACs G": "gmacs",
    "params M": "parameters_m",
    "FPS": "fps",
}


def transcribed_rows() -> list[tuple[str, str, int, str, dict[str, float | None]]]:
    """Paper, table, row, network and figures of every comparison table of the transcription."""
    found = []
    for section in re.split(r"\n### ", PAPERS.read_text(encoding="utf-8")):
        title = re.match(r"(00\d) (Table \w+): (VSPW|Cityscapes)", section)
        lines = [line for line in section.split("\n## ")[0].split("\n") if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if title is None or not cells or cells[0][:2] != ["method", "backbone"]:
            continue
        for number, row in enumerate(cells[2:], 1):
            method, backbone = row[0].rstrip("†*"), row[1]
            if method not in METHODS or backbone not in BACKBONES:
                continue
            name = f"{METHODS[method]}/{BACKBONES[backbone]}"
            figures = {
                COLUMNS[column]: None if text == "-" else float(text)
                for column, text in zip(cells[0][2:], row[2:], strict=True)
            }
            found.append((SEEDS[title[1]], title[2].lower(), number, name, figures))
    return found


@pytest.mark.data
@pytest.mark.skipif(not PAPERS.is_file(), reason="no transcription of the papers")
def test_every_row_of_the_papers_is_listed_with_its_figures() -> None:
    rows = transcribed_rows()
    assert len(rows) > 100
    keyed = {(row.table.paper, row.table.table, row.row): row for row in PUBLISHED if row.row}
    assert set(keyed) == {row[:3] for row in rows}
    for paper, table, number, name, figures in rows:
        row = keyed[paper, table, number]
        assert row.name == name
        printed = {key: getattr(row, key) for key in FIGURES if getattr(row, key) is not None}
        assert printed == {key: value for key, value in figures.items() if value is not None}


def test_every_published_network_can_be_built_and_names_its_source() -> None:
    assert {row.name for row in PUBLISHED} <= set(CATALOGUE)
    for row in PUBLISHED:
        assert re.search(r"arXiv \d{4}\.\d{5}", row.place), row
        assert row.miou is not None
    assert rows_of("tv3s/mit_b5")[0].place == f"{TV3S}, table 1, row 22"
    assert {f"tv3s/swin_{size}" for size in "tsbl"} < set(CATALOGUE)


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
    refused = CliRunner().invoke(command, ["--only", "mrcfa/mit_b0", "--size", "480x853"])
    assert "480x864" in refused.output
    nothing = CliRunner().invoke(command, ["--only", "xyz"])
    assert isinstance(nothing.exception, ExportError)


def test_command_lists_published_figures_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    arguments = ["--only", "cffm/mit_b0", "--published", "--size", "96x128", "--json", str(out)]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if f"{CFFM_PLUS}, table 1" in line)
    for figure in ("35.4", "58.5", "87.7", "82.9", "25.6", "43.1", "4.7"):
        assert figure in line
    assert "published, Cityscapes, split not named" in result.output
    (entry,) = json.loads(out.read_text())["networks"]
    assert round(entry["counted"]["parameters"] / 1e6, 3) == 4.673
    assert [row["fps"] for row in entry["published"]] == [15.8, 43.1, None, 34.2, 15.79]
    assert {d["quantity"] for row in entry["published"] for d in row["ours"]} == {
        "parameters",
        "work",
    }


def test_entries_are_sorted_by_the_requested_key() -> None:
    def cost(parameters: int, work: float, state: int) -> Cost:
        one = {"step": work}
        return Cost(parameters, one, one, one, {"step": 1.0}, state)

    entries = [
        Entry(CATALOGUE["mrcfa/mit_b1"], cost(2, 3.0, 1)),
        Entry(CATALOGUE["upernet/swin_t"], None, "refused"),
        Entry(CATALOGUE["tv3s/mit_b1"], cost(3, 2.0, 2)),
        Entry(CATALOGUE["cffm/mit_b1"], cost(1, 1.0, 3)),
    ]

    def names(key: str) -> list[str]:
        return [entry.row.name.partition("/")[0] for entry in sort_entries(entries, key)]

    assert names("family") == ["mrcfa", "upernet", "tv3s", "cffm"]
    assert names("name") == ["cffm", "mrcfa", "tv3s", "upernet"]
    assert names("parameters") == ["tv3s", "mrcfa", "cffm", "upernet"]
    assert names("work") == ["mrcfa", "tv3s", "cffm", "upernet"]
    assert names("state") == ["cffm", "tv3s", "mrcfa", "upernet"]
    assert names("miou") == ["tv3s", "mrcfa", "cffm", "upernet"]

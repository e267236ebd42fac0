"""What fits a device: estimates scaled from a measured bundle, and bounds by roofline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamseg.cli.main import cli
from streamseg.cli.models import command
from streamseg.errors import ExportError
from streamseg.export import export_bundle
from streamseg.export.catalogue import build_entry, measure_cost
from streamseg.export.device_fit import (
    BOARDS,
    Board,
    estimate_ms,
    find_board,
    find_entry,
    measure_bundle,
    read_measured,
    roofline_ms,
)
from streamseg.runtime.bundle.bundle import read_manifest
from tests.evaluation.models import write_bundle

SIZE = (64, 96)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "segformer"
    export_bundle(build_entry("segformer/mit_b0", classes=19), path, size=SIZE)
    return path


def test_bundle_is_found_in_the_catalogue_and_others_are_scaled_from_it(street: Path) -> None:
    measured = measure_bundle(street, seconds=0.1)
    assert (measured.name, measured.size) == ("segformer/mit_b0", SIZE)
    assert measured.ms > 0
    own = measure_cost("segformer/mit_b0", SIZE, classes=19)
    other = measure_cost("segformer/mit_b1", SIZE, classes=19)
    assert estimate_ms(measured, own, own) == pytest.approx(measured.ms)
    ratio = other.gmacs["step"] / own.gmacs["step"]
    assert estimate_ms(measured, own, other) == pytest.approx(measured.ms * ratio)


def test_command_marks_measurements_and_estimates(street: Path) -> None:
    result = CliRunner().invoke(command, ["--only", "segformer", "--measured", str(street)])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "programs" not in line]
    assert "the others are estimates, scaled by work" in lines[0]
    kinds = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert kinds["segformer/mit_b0"] == "measured"
    assert {kinds[f"segformer/mit_b{i}"] for i in range(1, 6)} == {"estimate"}


def test_measurement_of_another_machine_is_read(street: Path, tmp_path: Path) -> None:
    record = tmp_path / "bench.json"
    options = ["bench", str(street), "--frames", "2", "--backend", "onnxruntime"]
    assert CliRunner().invoke(cli, [*options, "--json", str(record)]).exit_code == 0
    content = json.loads(record.read_text())
    content["mean_ms"], content["load_note"] = 400.0, "it was busy"
    content["machine"]["processor"] = "Cortex-A78AE"
    record.write_text(json.dumps(content))
    result = CliRunner().invoke(command, ["--only", "segformer", "--measured", str(record)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("segformer/mit_b0 at 64x96 on onnxruntime")
    assert "Cortex-A78AE: 400.0 ms a frame, measured" in lines[0]
    assert lines[1] == "it was busy"
    (own,) = [line for line in lines if line.startswith("  segformer/mit_b0")]
    assert own.split()[1:] == ["400.0", "ms", "measured"]


@pytest.mark.parametrize(
    "change",
    [
        {"mean_ms": 0},
        {"mean_ms": "1"},
        {"mean_ms": float("nan")},
        {"mean_ms": 10**400},
        {"size": [64]},
        {"size": 7},
        {"size": [64, -1]},
        {"classes": True},
        {"model": []},
        {"machine": {}},
        {"load_note": None},
    ],
    ids=str,
)
def test_other_files_are_not_measurements(change: dict[str, object], tmp_path: Path) -> None:
    valid = {"size": [64, 96], "classes": 19, "mean_ms": 4.0, "model": {"family": "x"}}
    valid |= {"execution": "x", "load_note": "", "machine": {"processor": "x"}}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(valid))
    with pytest.raises(ExportError, match="not one of the catalogue"):
        read_measured(path)
    path.write_text(json.dumps({**valid, **change}))
    with pytest.raises(ExportError, match="is not a measurement: expected a bundle, or"):
        read_measured(path)


@pytest.mark.parametrize("text", ["", "[]", "3", '"x"', "[" * 100_000, "\udce9"], ids=repr)
def test_damaged_measurements_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ExportError, match="is not a measurement"):
        read_measured(path)


def test_network_of_its_own_size_cannot_be_scaled(tmp_path: Path) -> None:
    manifest = read_manifest(write_bundle(tmp_path / "tiny"))
    with pytest.raises(ExportError, match="not one of the catalogue"):
        find_entry(manifest.model, len(manifest.classes))


def test_bound_is_the_longer_of_work_and_memory() -> None:
    cost = measure_cost("segformer/mit_b0", SIZE, classes=19)
    operations = 2 * cost.gmacs["step"] * 1e9
    slow = Board("slow", 0.001, 1000.0, 2, "test")
    assert roofline_ms(cost, slow) == pytest.approx(operations / 1e9 * 1000)
    narrow = Board("narrow", 1000.0, 0.001, 2, "test")
    assert roofline_ms(cost, narrow) == pytest.approx(cost.parameters * 2 / 1e6 * 1000)


def test_bounds_are_marked_and_are_not_frame_rates() -> None:
    result = CliRunner().invoke(
        command, ["--only", "tv3s/mit_b1", "--board", "jetson-orin-nano-8gb"]
    )
    assert result.exit_code == 0, result.output
    assert "lower bounds by roofline, not estimates" in result.output
    assert "at least" in result.output
    assert "fps" not in result.output.lower()
    assert "frames a second" not in result.output
    assert round(BOARDS["jetson-agx-orin-64gb"].tflops, 1) == 42.6
    with pytest.raises(ExportError, match="not a listed board: jetson-orin-nano-8gb"):
        find_board("toaster")

"""Settings: read from the file, from the caller, or assumed; a contradiction is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from streamseg.errors import CheckpointError
from streamseg.export import export_bundle, load_checkpoint, save_checkpoint
from streamseg.export.checkpoint import published_weights
from streamseg.export.families import FAMILIES, family_named
from streamseg.export.models.mrcfa import MRCFA, MRCFAConfig
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.runtime.bundle.claims import describe_assumed, format_setting
from tests.export.tiny import CLASSES, ENCODER, build

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# What a file that says nothing is taken for; by the publications.
PUBLISHED: dict[str, dict[str, Any]] = {
    "tv3s": {"window": (20, 20), "shift": (10, 10)},
    "segformer": {},
    "cffm": {"offsets": (-9, -6, -3)},
    "cffm++": {"offsets": (-9, -6, -3)},
    "mask2former": {},
    "mpvss": {"key_interval": 5},
}


def silent(family: str, path: Path) -> Path:
    """A file of the family's weights and nothing else."""
    torch.save(published_weights(build(family)), path)
    return path


@pytest.mark.parametrize("family", PUBLISHED)
def test_file_without_settings_is_read_as_the_published_network(
    family: str, tmp_path: Path
) -> None:
    model = load_checkpoint(silent(family, tmp_path / "x.pth"))
    assert model.assumed == {**PUBLISHED[family], "mean": MEAN, "std": STD}


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_saved_file_needs_no_setting_and_assumes_nothing(family: str, tmp_path: Path) -> None:
    model = build(family)
    save_checkpoint(model, tmp_path / "x.safetensors")
    again = load_checkpoint(tmp_path / "x.safetensors")
    assert again.configuration() == json.loads(json.dumps(model.configuration()))
    assert again.assumed == {}


def test_setting_without_published_value_is_required(tmp_path: Path) -> None:
    path = silent("mrcfa", tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"does not record keep_ratio .*--set keep_ratio=VALUE"
    ):
        load_checkpoint(path)
    model = load_checkpoint(path, settings={"keep_ratio": "0.5"})
    assert "keep_ratio" not in model.assumed
    assert model.assumed["offsets"] == (-9, -6, -3)


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("tv3s", {"window": 20}, "window is 20 in --set, but the file says 4"),
        ("tv3s", {"shift": "1"}, "shift is 1 in --set, but the file says 2"),
        ("cffm", {"offsets": "-3,-2,-1"}, "offsets is -3,-2,-1 in --set, but the file says -9,-6,"),
        ("mrcfa", {"keep_ratio": 0.8}, "keep_ratio is 0.8 in --set, but the file says 0.5"),
        ("mpvss", {"key_interval": 3}, "key_interval is 3 in --set, but the file says 5"),
        ("segformer", {"mean": "0,0,0"}, "mean is 0,0,0 in --set, but the file says 123.675,"),
        ("segformer", {"window": "2"}, "segformer has no setting 'window'; its settings: mean"),
    ],
)
def test_setting_that_contradicts_the_file_is_refused(
    family: str, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_checkpoint(build(family), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x.safetensors", settings=given)
    assert message in str(caught.value)


def test_setting_that_repeats_the_file_is_allowed(tmp_path: Path) -> None:
    save_checkpoint(build("tv3s"), tmp_path / "x.safetensors")
    load_checkpoint(tmp_path / "x.safetensors", settings={"window": "4,4", "shift": 2})


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        *(("tv3s", "window", value) for value in ("0", "-1", "1.5", "a", "2,2,2", "", "nan")),
        *(("tv3s", "shift", value) for value in ("-1", "20", "5,20")),
        *(
            ("cffm", "offsets", value)
            for value in ("-3", "9,6,3", "-3,-6,-9", "-3,-2,0", "-64,-2,-1")
        ),
        *(("mrcfa", "keep_ratio", value) for value in ("0", "1.01", "-1", "nan", "0.5,0.5")),
        *(("mpvss", "key_interval", value) for value in ("1", "0", "2.5")),
        *(("segformer", "std", value) for value in ("0,1,1", "1,1", "1,inf,1")),
    ],
)
def test_value_out_of_range_is_refused(family: str, name: str, value: str, tmp_path: Path) -> None:
    path = silent(family, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"{name} (is|are) .*expected"):
        load_checkpoint(
            path, settings={"keep_ratio": 0.5, name: value} if family == "mrcfa" else {name: value}
        )


def test_file_that_contradicts_its_tensors_is_refused(tmp_path: Path) -> None:
    model = build("tv3s")
    described = {**model.configuration(), "layers": 4}
    save_checkpoint(model, tmp_path / "x.safetensors", metadata={"model": json.dumps(described)})
    with pytest.raises(CheckpointError, match="layers is 4 in its metadata and 2 by its tensors"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["{", "[1]", "2", '{"window": "a"}', '{"shift": null}'])
def test_damaged_configuration_is_refused(text: str, tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in published_weights(build("tv3s")).items()}
    save_file(weights, tmp_path / "x.safetensors", metadata={"model": text})
    with pytest.raises(CheckpointError, match=r"not a JSON object|in the file, expected"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_shift_follows_the_window_as_in_the_paper(tmp_path: Path) -> None:
    path = silent("tv3s", tmp_path / "x.pth")
    model = load_checkpoint(path, settings={"window": "7,4"})
    assert model.configuration()["shift"] == [3, 2]
    assert model.assumed["shift"] == (3, 2)


def test_normalisation_reaches_the_graph_and_the_manifest(tmp_path: Path) -> None:
    path = silent("segformer", tmp_path / "x.pth")
    given = {"mean": "127.5,127.5,127.5", "std": "127.5,127.5,127.5"}
    model = load_checkpoint(path, settings=given)
    frame = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    expected = frame.permute(0, 3, 1, 2).double() / 127.5 - 1
    torch.testing.assert_close(model.normalise(frame).double(), expected, atol=1e-6, rtol=0)
    export_bundle(model, tmp_path / "bundle", size=(64, 96))
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.frame.mean == manifest.frame.std == (127.5,) * 3
    assert manifest.assumed == {}


def test_assumptions_are_in_the_manifest(tmp_path: Path) -> None:
    model = load_checkpoint(silent("cffm", tmp_path / "x.pth"))
    export_bundle(model, tmp_path / "bundle", size=(64, 96))
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert list(describe_assumed(manifest.assumed)) == [
        "offsets -9,-6,-3 assumed: not recorded in the file",
        "mean 123.675,116.28,103.53 and std 58.395,57.12,57.375 assumed: not recorded in the file",
    ]


def test_assumptions_read_as_a_sentence() -> None:
    assumed = {"window": (20, 20), "shift": [10, 10]}
    assert list(describe_assumed(assumed)) == [
        "window 20 and shift 10 assumed: not recorded in the file"
    ]
    assert list(describe_assumed({})) == []
    three = {"window": (20, 10), "shift": (1, 1), "key_interval": 5}
    assert next(iter(describe_assumed(three))).startswith(
        "window 20,10, shift 1 and key_interval 5"
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_setting_reads_what_it_prints(family: Any) -> None:
    known: dict[str, Any] = {"encoder": "mit_b0"}
    for name, entry in family.settings.items():
        known[name] = entry.published(known)
        if known[name] is None:  # nothing is published: the option is required
            continue
        assert entry.read(format_setting(known[name])) == known[name], name
        assert entry.read(json.loads(json.dumps(known[name]))) == known[name], name


def test_unknown_family_is_named() -> None:
    assert family_named("tv3s").name == "tv3s"
    with pytest.raises(CheckpointError, match="expected one of tv3s, cffm"):
        family_named("deeplab")


def test_keep_ratio_that_keeps_nothing_is_refused() -> None:
    model = MRCFA(MRCFAConfig(ENCODER, 16, CLASSES, keep_ratio=0.1))
    with pytest.raises(Exception, match="keeps none of the 6 tokens"):
        model.check_size((64, 96))

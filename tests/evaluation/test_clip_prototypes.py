"""Prototypes of each clip: its own, cached, from files, or those in the bundle."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamseg.cli.main import run
from streamseg.errors import DatasetError, StateMismatch
from streamseg.evaluation.clip_prototypes import (
    FilePrototypes,
    OwnPrototypes,
    StoredPrototypes,
    flat_name,
    give_prototypes,
    parse_source,
    read_array,
)
from streamseg.evaluation.clustering import cluster, sample_frames, store_given
from streamseg.evaluation.datasets import Clip, open_dataset
from streamseg.evaluation.scores import evaluate
from streamseg.evaluation.segmenter import BundleSegmenter, Segmenter, SegmenterOptions
from streamseg.export import export_bundle
from streamseg.export.models.cffm import CFFMConfig, CFFMPlus
from streamseg.export.models.mit import MIT_PRESETS
from streamseg.export.palettes import read_classes
from tests.evaluation.trees import label_map

SIZE = (64, 96)
CLASSES = 11


@pytest.fixture(scope="module")
def network() -> CFFMPlus:
    torch.manual_seed(0)
    model = CFFMPlus(CFFMConfig(MIT_PRESETS["mit_b0"], 16, CLASSES))
    model.classes = read_classes({}, CLASSES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def bundle(network: CFFMPlus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prototypes") / "bundle"
    export_bundle(network, path, size=SIZE)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid tree of two drives of 12 frames, at the network's size."""
    folder = tmp_path_factory.mktemp("camvid")
    draw = np.random.default_rng(0)
    for drive in ("0001TP", "0016E5"):
        for i in range(12):
            stem = f"{drive}_{i:06d}"
            image = cv2.resize(draw.integers(0, 256, (8, 12, 3), np.uint8), SIZE[::-1])
            for part, content in (
                ("val", image),
                ("valannot", label_map([0, 3, 8], size=SIZE)),
            ):
                (folder / part).mkdir(exist_ok=True)
                assert cv2.imwrite(str(folder / part / f"{stem}.png"), content)
    return folder


def test_own_prototypes_are_centres_of_the_networks_tokens_of_that_clip(
    network: CFFMPlus, bundle: Path, root: Path
) -> None:
    clip = open_dataset(f"camvid:{root}", "val").clips[1]
    with BundleSegmenter(bundle, SegmenterOptions(native=False)) as segmenter:
        got = OwnPrototypes(seed=3).find(segmenter, clip)
    tokens = []
    for index in sample_frames(12):
        frame = torch.from_numpy(clip[index].image)[None]  # type: ignore[index]
        with torch.no_grad():
            tokens.append(network.trunk(frame)[2][0].flatten(1).T.numpy())
    expected = cluster(np.concatenate(tokens), 100, seed=3)
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_cache_is_written_once_and_read_again(bundle: Path, root: Path, tmp_path: Path) -> None:
    clip = open_dataset(f"camvid:{root}", "val").clips[0]
    with BundleSegmenter(bundle, SegmenterOptions(native=False)) as segmenter:
        first = OwnPrototypes(cache=tmp_path / "cache").find(segmenter, clip)
        path = tmp_path / "cache/0001TP.npy"
        np.testing.assert_array_equal(np.load(path), first)
        np.save(path, first + 1)
        again = OwnPrototypes(cache=tmp_path / "cache").find(segmenter, clip)
        np.testing.assert_array_equal(again, first + 1)


def test_files_may_be_arrays_or_archives_with_one_array(tmp_path: Path) -> None:
    centres = np.random.default_rng(0).normal(size=(100, 16))
    np.save(tmp_path / "a.npy", centres)
    np.savez(tmp_path / "b.npz", centres=centres)
    np.savez(tmp_path / "c.npz", one=centres, two=centres)
    (tmp_path / "d.npy").write_bytes(b"no array")
    for name in ("a.npy", "b.npz"):
        np.testing.assert_array_equal(read_array(tmp_path / name), centres.astype(np.float32))
    with pytest.raises(DatasetError, match="2 arrays, expected one"):
        read_array(tmp_path / "c.npz")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_array(tmp_path / "d.npy")
    assert flat_name("road/Camera 5") == "road__Camera 5"


def test_missing_misshapen_and_unstored_prototypes_are_refused(
    bundle: Path, root: Path, tmp_path: Path
) -> None:
    clip = open_dataset(f"camvid:{root}", "val").clips[0]
    with pytest.raises(DatasetError, match="expected a folder"):
        parse_source(str(tmp_path / "none"))
    with BundleSegmenter(bundle, SegmenterOptions(native=False)) as segmenter:
        with pytest.raises(DatasetError, match="clip 0001TP has no prototypes"):
            give_prototypes(segmenter, clip, source=FilePrototypes(tmp_path))
        np.save(tmp_path / "0001TP.npy", np.zeros((7, 16)))
        with pytest.raises(StateMismatch, match=r"shape \[7, 16\], expected \[100, 16\]"):
            give_prototypes(segmenter, clip, source=FilePrototypes(tmp_path))
        with pytest.raises(StateMismatch, match="run streamseg prototypes"):
            give_prototypes(segmenter, clip, source=StoredPrototypes())


def test_each_clip_is_stepped_with_its_own_prototypes(bundle: Path, root: Path) -> None:
    dataset = open_dataset(f"camvid:{root}", "val")
    seen = []

    def prepare(segmenter: Segmenter, clip: Clip) -> None:
        give_prototypes(segmenter, clip, source=OwnPrototypes())
        assert isinstance(segmenter, BundleSegmenter)
        seen.append(segmenter.stream.snapshot().tensors["prototypes"])
        expected = OwnPrototypes().find(segmenter, clip)
        np.testing.assert_array_equal(seen[-1], expected)
        give_prototypes(segmenter, clip, source=OwnPrototypes())

    with BundleSegmenter(bundle, SegmenterOptions(native=False)) as segmenter:
        evaluate(segmenter, dataset, prepare=prepare)
    assert len(seen) == 2
    assert (seen[0] != seen[1]).any()


def test_command_has_a_row_for_each_source_and_marks_those_not_causal(
    bundle: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    path, out = tmp_path / "bundle", tmp_path / "r.json"
    shutil.copytree(bundle, path)
    store_given(path, "prototypes", np.eye(100, 16, dtype=np.float32))
    with pytest.raises(SystemExit) as code:
        run(["eval", str(path), "--dataset", f"camvid:{root}", "--prototypes", "clip",
             "--prototypes", "stored", "--prototype-cache", str(tmp_path / "cache"),
             "--json", str(out)])  # fmt: skip
    assert code.value.code == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["prototypes"], row["causal"]) for row in rows] == [
        ("clip", False),
        ("stored", True),
    ]
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["0001TP.npy", "0016E5.npy"]
    assert "which a live stream cannot have" in " ".join(capsys.readouterr().out.split())

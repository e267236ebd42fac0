"""Other reference offsets and key intervals stream as a whole clip computes them.

The expected logits are computed frame by frame from the pictures themselves, by the rule that the
paper states; no ring, schedule or state takes part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import streamseg
from streamseg.errors import CheckpointError
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.checkpoint import published_weights
from streamseg.export.models.clip import ClipModel
from streamseg.export.models.mpvss import MPVSS
from streamseg.export.parity import moving_pattern
from streamseg.export.step import upsample
from streamseg.runtime.bundle.bundle import read_bundle
from tests.export.tiny import SIZE, build

LIMIT = 5e-5
PUBLISHED = {3: (0, 1, 2), 4: (0, 2, 3), 5: (0, 2, 4), 6: (0, 2, 4), 7: (0, 3, 5), 8: (0, 3, 6)}


def whole_clip(model: ClipModel, frames: list[Tensor], offsets: tuple[int, ...]) -> list[Tensor]:
    """Logits of every frame; each looks at pictures, and is computed from the start."""
    found = []
    given = [torch.ones(spec.shape) for spec in model.state_spec(SIZE) if spec.kind == "given"]
    for t, frame in enumerate(frames):
        places: tuple[int, ...] = tuple(t + offset for offset in offsets)
        if offsets == (-9, -6, -3) and t in PUBLISHED:
            places = PUBLISHED[t]
        maps, fused, reduced = model.trunk(frame)
        if min(places) < 0:
            scores = model.decode_head.linear_pred(fused)
        else:
            past = [model.memorise(*_ends(model, frames[place])) for place in places]
            scores = model.look_back(maps, reduced, list(zip(*past, strict=True)), given)
            scores = upsample(scores, (fused.shape[2], fused.shape[3]))
        found.append(upsample(scores, SIZE)[0])
    return found


def _ends(model: ClipModel, frame: Tensor) -> tuple[list[Tensor], Tensor]:
    maps, _, reduced = model.trunk(frame)
    return maps, reduced


def stream(bundle: Path, images: list[Any]) -> list[np.ndarray[Any, Any]]:
    """What the runtime makes of the pictures."""
    with streamseg.open(bundle, native=False) as opened:
        for spec in opened.manifest.state:
            if spec.kind == "given":
                opened.give(spec.name, np.ones(spec.shape, np.float32))
        return [np.array(opened.step(image).logits) for image in images]


@pytest.mark.parametrize(
    ("family", "offsets"),
    [
        ("cffm", (-12, -5, -1)),
        ("cffm++", (-5, -4, -2)),
        ("mrcfa", (-4, -1)),
        ("mrcfa", (-5, -4, -3, -1)),
    ],
)
@torch.no_grad()
def test_bundle_streams_what_the_whole_clip_gives(
    family: str, offsets: tuple[int, ...], tmp_path: Path
) -> None:
    torch.save(published_weights(build(family)), tmp_path / "x.pth")
    settings = {"offsets": ",".join(map(str, offsets))}
    if family == "mrcfa":
        settings["keep_ratio"] = "0.5"
    model = load_checkpoint(tmp_path / "x.pth", settings=settings)
    assert isinstance(model, ClipModel)
    assert model.configuration()["offsets"] == list(offsets)
    export_bundle(model, tmp_path / "b", size=SIZE, logits=True)
    images = moving_pattern(SIZE, 15)
    frames = [torch.from_numpy(image)[None] for image in images]
    expected = whole_clip(model, frames, offsets)
    for t, (got, wanted) in enumerate(zip(stream(tmp_path / "b", images), expected, strict=True)):
        assert np.abs(got - wanted.numpy()).max() < LIMIT, t
    if offsets != (-9, -6, -3):  # and it matters
        other = whole_clip(model, frames, tuple(offset - 1 for offset in offsets))
        assert (other[-1] - expected[-1]).abs().max() > 10 * LIMIT


def test_ring_is_as_long_as_the_oldest_reference_needs(tmp_path: Path) -> None:
    torch.save(published_weights(build("mrcfa")), tmp_path / "x.pth")
    given = {"offsets": "-4,-1", "keep_ratio": "0.5"}
    export_bundle(load_checkpoint(tmp_path / "x.pth", settings=given), tmp_path / "b", size=SIZE)
    manifest = read_bundle(tmp_path / "b").manifest
    assert {spec.slots for spec in manifest.state} == {5}
    assert [(row.start, row.graph) for row in manifest.schedule] == [(0, "single"), (4, "step")]
    assert set(manifest.schedule[1].ages.values()) == {(4, 1)}


@pytest.mark.parametrize("family", ["cffm", "cffm++"])
def test_weights_decide_how_many_references_there_are(family: str, tmp_path: Path) -> None:
    torch.save(published_weights(build(family)), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="offsets are -6,-3, expected 3"):
        load_checkpoint(tmp_path / "x.pth", settings={"offsets": "-6,-3"})


@pytest.mark.parametrize("interval", [2, 3])
@torch.no_grad()
def test_key_frames_come_as_often_as_set(interval: int, tmp_path: Path) -> None:
    torch.save(published_weights(build("mpvss")), tmp_path / "x.pth")
    model = load_checkpoint(tmp_path / "x.pth", settings={"key_interval": interval})
    assert isinstance(model, MPVSS)
    export_bundle(model, tmp_path / "b", size=SIZE, logits=True)
    images = moving_pattern(SIZE, 9)
    got = stream(tmp_path / "b", images)
    for t, image in enumerate(images):
        key = torch.from_numpy(images[t - t % interval])[None]
        scores, *state = model.run_graph("key", key)
        if t % interval:
            (scores,) = model.run_graph("propagate", torch.from_numpy(image)[None], *state)
        assert np.abs(got[t] - scores[0].numpy()).max() < LIMIT, t

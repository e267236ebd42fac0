"""A learned memory: trained over a frozen bundle, exported, and equal in PyTorch and ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import streamseg
from streamseg.cli.export import command
from streamseg.errors import CheckpointError, ExportError
from streamseg.export import load_checkpoint, save_checkpoint
from streamseg.export.bundle_smoothing import remember_bundle
from streamseg.export.frame_graph import FrameGraph
from streamseg.export.learned_memory import LearnedMemory, MemoryModel, load_memory
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.step import upsample
from tests.conftest import TinyBundle
from tests.export import tiny
from tests.export.test_smoothing import FRAMES

BLOCKS = BlocksConfig(8, layers=2, d_inner=8, d_state=4, dt_rank=1, window=(2, 2), shift=(1, 1))


@pytest.fixture(scope="module")
def segmenter(tiny_bundle: TinyBundle) -> Path:
    return tiny_bundle("segformer", "fp32")


@pytest.fixture(scope="module")
def model(segmenter: Path) -> MemoryModel:
    """A memory whose weights were drawn, so that it changes scores."""
    torch.manual_seed(3)
    model = MemoryModel(FrameGraph(segmenter), BLOCKS).eval()
    torch.nn.init.normal_(model.memory.write.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def weights(model: MemoryModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "weights.safetensors"
    save_checkpoint(model, path)
    return path


@pytest.fixture(scope="module")
def joined(weights: Path, segmenter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("joined") / "bundle"
    remember_bundle(segmenter, path, weights, logits=True)
    return path


def test_taps_are_the_scores_and_what_their_convolution_reads(segmenter: Path) -> None:
    """The oracle is the network in PyTorch, from which the bundle was exported."""
    frames, network = FrameGraph(segmenter), tiny.build("segformer").fold()
    read = frames.open_taps((frames.scores, frames.features))
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        network.decode_head.linear_pred.register_forward_pre_hook(
            lambda _, given: seen.append(*given)
        )
        for image in FRAMES[:2]:
            scores, features = read(image)
            (wanted,) = network.score(torch.from_numpy(image)[None])
            np.testing.assert_allclose(scores, wanted.numpy(), atol=1e-4)
            np.testing.assert_allclose(features, seen[-1].numpy(), atol=1e-4)


def test_untrained_memory_changes_nothing(segmenter: Path) -> None:
    model = MemoryModel(FrameGraph(segmenter), BLOCKS).eval()
    read = model.frames.open_taps((model.frames.scores,))
    with torch.no_grad():
        for image in FRAMES[:2]:
            state = model.initial_state(tiny.SIZE)
            mixed = model.score(torch.from_numpy(image)[None], *state)[0]
            np.testing.assert_array_equal(mixed.numpy(), read(image)[0])


def test_bundle_equals_pytorch_over_frames_and_carries_its_state(
    model: MemoryModel, joined: Path
) -> None:
    with streamseg.open(joined) as stream, torch.no_grad():
        assert {spec.kind for spec in stream.manifest.state} == {"carry"}
        assert len(stream.manifest.state) == 2 * BLOCKS.layers
        state: list[torch.Tensor] = list(model.initial_state(tiny.SIZE))
        differs = False
        for frame in FRAMES:
            image = torch.from_numpy(frame)[None]
            scores, *state = model.score(image, *state)
            fresh = model.score(image, *model.initial_state(tiny.SIZE))[0]
            differs |= not torch.allclose(scores, fresh, atol=1e-3)
            wanted = upsample(scores, tiny.SIZE)[0].numpy()
            np.testing.assert_allclose(stream.step(frame).logits, wanted, atol=2e-3)
        assert differs
        saved = stream.snapshot()
        last = stream.step(FRAMES[0]).labels
        stream.restore(saved)
        np.testing.assert_array_equal(stream.step(FRAMES[0]).labels, last)


def test_whole_clip_equals_stepping(model: MemoryModel) -> None:
    frames = torch.from_numpy(np.stack(FRAMES[:4]))
    with torch.no_grad():
        clips = torch.stack([frames, frames.flip(0)])
        whole = model.forward_clip(clips)
        for clip, scores in zip(clips, whole, strict=True):
            state: list[torch.Tensor] = list(model.initial_state(tiny.SIZE))
            for frame, found in zip(clip, scores, strict=True):
                wanted, *state = model.score(frame[None], *state)
                torch.testing.assert_close(found, wanted[0], atol=1e-4, rtol=1e-4)


def test_memory_of_another_bundle_is_refused(
    weights: Path, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="was trained for another bundle"):
        remember_bundle(tiny_bundle("tv3s", "fp32"), tmp_path / "m", weights)
    assert not (tmp_path / "m").exists()


def test_other_files_are_refused(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "s.safetensors"
    save_checkpoint(tiny.build("segformer"), other)
    with pytest.raises(CheckpointError, match="expected the weights of streamseg train --memory"):
        load_memory(other)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_memory(cut)
    with pytest.raises(CheckpointError):
        load_checkpoint(weights)


def test_saved_memory_is_the_same(model: MemoryModel, weights: Path) -> None:
    memory, identity = load_memory(weights)
    assert isinstance(memory, LearnedMemory)
    assert memory.config == model.memory.config
    assert identity == model.frames.bundle.identity
    for name, value in memory.state_dict().items():
        assert torch.equal(value, model.memory.state_dict()[name])


def test_command_joins_a_memory(weights: Path, segmenter: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    done = CliRunner().invoke(command, [str(segmenter), "--memory", str(weights), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "with memory" in done.output
    refused = CliRunner().invoke(command, [str(segmenter), "--memory", "gate", "-o", str(out)])
    assert refused.exit_code != 0
    assert "expected gated, warped or a file" in refused.output + str(refused.exception)
    refused = CliRunner().invoke(
        command, ["net.pth", "--size", "64x96", "--memory", str(weights), "-o", str(out)]
    )
    assert "joins the BUNDLE" in refused.output

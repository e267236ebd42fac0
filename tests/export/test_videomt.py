"""VidEoMT against transformers' own forward over video and its own post-processing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import streamseg
from streamseg.calibration.calibrating import CalibrationOptions, calibrate
from streamseg.errors import CheckpointError, ExportError
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import export_bundle, load_checkpoint, save_checkpoint
from streamseg.export.models.segments import find_segments
from streamseg.export.parity import moving_pattern
from streamseg.runtime.bundle.bundle import read_bundle

transformers = pytest.importorskip("transformers")

SIZE = (64, 64)
NAMES = {0: "road", 1: "car", 2: "sky", 3: "person"}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
FRAMES = moving_pattern(SIZE, 7)
LIMIT = 2e-4


def make(**changes: Any) -> Any:
    """A small VidEoMT of transformers with every weight away from zeros and ones."""
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64,
        "patch_size": 16, "num_blocks": 2, "num_queries": 9, "num_register_tokens": 2,
    }  # fmt: skip
    torch.manual_seed(5)
    network = transformers.VideomtForUniversalSegmentation(
        transformers.VideomtConfig(**{**sizes, **changes}, id2label=NAMES)
    ).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.1)
        # Decided classes and masks, so that segments exist.
        network.class_predictor.weight.mul_(30)
        network.class_predictor.bias[-1] += 20
        network.mask_head.fc3.weight.mul_(4)
        network.upscale_block.block[-1].layernorm2d.bias += 0.5
        network.mask_head.fc3.bias -= 0.5
    return network


@pytest.fixture(scope="module")
def network() -> Any:
    return make()


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers saves it, with its processor's file."""
    path = tmp_path_factory.mktemp("videomt") / "origin"
    network.save_pretrained(path)
    processor = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255}
    processor |= {"image_mean": MEAN, "image_std": STD}
    (path / "video_preprocessor_config.json").write_text(json.dumps(processor))
    return path


@torch.inference_mode()
def outputs_of(network: Any, frames: list[np.ndarray]) -> Any:
    """What transformers gives for a whole clip."""
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255
    return network(pixel_values_videos=((pixels - mean) / std)[None])


@pytest.fixture(scope="module")
def outputs(network: Any) -> Any:
    return outputs_of(network, FRAMES)


class Processor:
    """transformers' post-processing, which needs nothing of the processor itself."""

    def __getattr__(self, name: str) -> Any:
        from transformers.models.videomt.video_processing_videomt import VideomtVideoProcessor

        return getattr(VideomtVideoProcessor, name).__get__(self)


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_checkpoint(folder, settings={"segments": "panoptic"})
    assert model.assumed == {}
    path = tmp_path_factory.mktemp("bundles") / "videomt"
    export_bundle(model, path, size=SIZE, logits=True)
    return path


def test_bundle_computes_what_transformers_computes_over_a_clip(bundle: Path, outputs: Any) -> None:
    wanted = Processor().post_process_semantic_segmentation(
        outputs, [SIZE] * len(FRAMES), return_segmentation_scores=True
    )
    manifest = read_bundle(bundle).manifest
    assert [entry.name for entry in manifest.classes] == list(NAMES.values())
    assert manifest.model["encoder"] == "vit"
    with streamseg.open(bundle) as stream:
        for frame, expected in zip(FRAMES, wanted, strict=True):
            result = stream.step(frame)
            scores = expected.segmentation_scores.numpy()
            np.testing.assert_allclose(result.logits, scores, atol=LIMIT)
            first, second = np.sort(scores, axis=0)[::-1][:2]
            clear = first - second > 2 * LIMIT
            assert clear.mean() > 0.9
            assert (result.labels == expected.segmentation.numpy())[clear].all()


def test_memory_matters(network: Any, outputs: Any) -> None:
    """Each frame as a first one differs: the comparison above can fail."""
    alone = outputs_of(network, FRAMES[-1:]).class_queries_logits[0]
    assert (alone - outputs.class_queries_logits[-1]).abs().max() > 0.1


def partition(ids: np.ndarray, none: int) -> set[bytes]:
    """The segments of a map, whatever their numbers."""
    return {(ids == number).tobytes() for number in np.unique(ids) if number != none}


def test_segments_of_the_bundle_are_panoptic_ids_that_stay(bundle: Path, outputs: Any) -> None:
    wanted = Processor().post_process_panoptic_segmentation(outputs, [SIZE] * len(FRAMES))
    seen = []
    with streamseg.open(bundle) as stream:
        for frame, expected in zip(FRAMES, wanted, strict=True):
            stream.step(frame)
            ids, classes = stream.read("segments")[0], stream.read("segment_classes")[0]
            theirs = expected["segmentation"].numpy()
            assert partition(ids, 255) == partition(theirs, -1)
            for segment in expected["segments_info"]:
                (query,) = np.unique(ids[theirs == segment["id"]])
                assert classes[query] == segment["label_id"]
                seen.append(query)
    assert 1 < len(set(seen)) < len(seen) / 2


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(48, 80), (50, 81)])
def test_segments_are_those_of_transformers(
    kind: str, seed: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamseg.export.models import segments

    monkeypatch.setattr(segments, "STRIP_ELEMENTS", 1)  # several strips
    random = torch.Generator().manual_seed(seed)
    masks = torch.randn(1, 7, 12, 20, generator=random) * 3 + 1
    masks = torch.nn.functional.avg_pool2d(masks, 5, 1, 2) * 3
    logits = torch.randn(1, 7, 5, generator=random) * 6

    class Outputs:
        class_queries_logits, masks_queries_logits = logits, masks

    method = getattr(Processor(), f"post_process_{kind}_segmentation")
    (expected,) = method(Outputs(), [size])
    ids, classes = find_segments(masks, logits.softmax(-1), size, kind=kind)
    theirs = expected["segmentation"].numpy()
    assert partition(ids[0].numpy(), 255) == partition(theirs, -1)
    # A segment that others cover wholly is in transformers' list and in no pixel.
    assert sorted(classes[0][classes[0] != 255].tolist()) == sorted(
        segment["label_id"] for segment in expected["segments_info"]
    )


def test_checkpoint_of_our_own_reads_back(folder: Path, tmp_path: Path) -> None:
    model = load_checkpoint(folder)
    save_checkpoint(model, tmp_path / "w.safetensors")
    again = load_checkpoint(tmp_path / "w.safetensors")
    assert again.assumed == {}
    assert again.configuration() == model.configuration()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_gated_layers_and_other_sizes_import(tmp_path: Path) -> None:
    network = make(use_swiglu_ffn=True, num_upscale_blocks=1, image_size=32, num_blocks=1)
    network.save_pretrained(tmp_path / "origin")
    model = load_checkpoint(tmp_path / "origin", settings={"mean": "127,102,76", "std": "60,50,70"})
    frame = torch.from_numpy(FRAMES[0][:32, :32].copy())[None]
    with torch.no_grad():
        scores = model.score(frame, *model.initial_state((32, 32)))[0]
        wanted = network(pixel_values_videos=model.normalise(frame)[None])
    classes = wanted.class_queries_logits.softmax(-1)[0, :, :-1]
    expected = torch.einsum("qk,qhw->khw", classes, wanted.masks_queries_logits.sigmoid()[0])
    torch.testing.assert_close(scores[0], expected, atol=LIMIT, rtol=0)


def test_inputs_that_do_not_fit_are_rejected(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="trained at 64x64; its frames are stretched"):
        export_bundle(load_checkpoint(folder), tmp_path / "b", size=(64, 96))
    with pytest.raises(CheckpointError, match="image_size is 32"):
        load_checkpoint(folder, settings={"image_size": 32})
    with pytest.raises(CheckpointError, match="one of none, instance, panoptic"):
        load_checkpoint(folder, settings={"segments": "stuff"})
    config = json.loads((folder / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text(json.dumps({**config, "image_size": 80}))
    with pytest.raises(CheckpointError, match="5x5 patches of 16, the checkpoint has 16"):
        load_checkpoint(other)


def test_ids_survive_half_precision(folder: Path, bundle: Path, tmp_path: Path) -> None:
    model = load_checkpoint(folder, settings={"segments": "panoptic"})
    export_bundle(model, tmp_path / "half", size=SIZE, precision="fp16")
    with streamseg.open(bundle) as full, streamseg.open(tmp_path / "half") as half:
        for frame in FRAMES[:3]:
            full.step(frame)
            half.step(frame)
        ours, theirs = half.read("segments"), full.read("segments")
    assert ours.dtype == np.uint8
    assert (ours == theirs).mean() > 0.9


def test_ids_survive_calibration(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for index, image in enumerate(FRAMES[:4]):
        cv2.imwrite(str(tmp_path / f"clip/{index}.png"), image)
    dataset = open_dataset(f"footage:{tmp_path / 'clip'}")
    options = CalibrationOptions(clips=1, clip_frames=4, native=False)
    result = calibrate(bundle, tmp_path / "int8", dataset, options, report=False)
    with streamseg.open(bundle) as full, streamseg.open(result.path) as small:
        assert small.manifest.precision_name == "int8"
        full.step(FRAMES[0])
        small.step(FRAMES[0])
        assert (small.read("segments") == full.read("segments")).mean() > 0.9

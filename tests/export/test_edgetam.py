"""EdgeTAM against transformers' own video session: with SAM 2's encoder, and with its own by timm.

timm must not be installed beside the tests' PyTorch, so its test runs in an environment of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamseg
from streamseg.errors import CheckpointError, ExportError, StateMismatch
from streamseg.export import export_bundle
from streamseg.export.models.edgetam import EdgeTAM, build
from streamseg.export.parity import moving_pattern

transformers = pytest.importorskip("transformers")

SIDE = 64
FRAMES = moving_pattern((SIDE, SIDE), 30)
POINTS = np.array([[[20.0, 30.0]], [[50.0, 12.0]]], np.float32)
LABELS = np.ones((2, 1), np.int32)
MEAN, STD = (
    torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
)


def hiera_vision() -> Any:
    """SAM 2's encoder, small."""
    hiera = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    return transformers.Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=128,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip


def repvit_vision() -> Any:
    """The published encoder, RepViT-M1, at its own width."""
    repvit = transformers.TimmWrapperConfig(
        architecture="repvit_m1",
        model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    )
    return transformers.EdgeTamVisionConfig(
        backbone_config=repvit, fpn_hidden_size=128,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip


def make(vision: Any = None) -> Any:
    """A small EdgeTAM with every weight away from zeros and ones."""
    config = transformers.EdgeTamVideoConfig(
        vision_config=vision or hiera_vision(),
        prompt_encoder_config=transformers.EdgeTamVideoPromptEncoderConfig(
            hidden_size=128, image_size=SIDE, patch_size=16, mask_input_channels=4
        ),
        mask_decoder_config=transformers.EdgeTamVideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32
        ),
        image_size=SIDE, memory_attention_hidden_size=128, memory_attention_mlp_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4], memory_attention_rope_k_sizes=[2, 2],
        perceiver_resampler_num_latents=5, perceiver_resampler_num_latents_2d=4,
        perceiver_resampler_hidden_size=64, perceiver_resampler_mlp_intermediate_size=16,
        perceiver_resampler_attention_head_dim=64, memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=32,
    )  # fmt: skip
    torch.manual_seed(2)
    network = transformers.EdgeTamVideoModel(config).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.15)
        network.mask_decoder.pred_obj_score_head.proj_out.bias.add_(3)
    return network


@pytest.fixture(scope="module")
def network() -> Any:
    return make()


@torch.inference_mode()
def track(network: Any, points: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Mask logits ``[objects, h, w]`` of every frame, by transformers' session, streamed."""
    session = transformers.EdgeTamVideoInferenceSession(
        video=None, video_height=SIDE, video_width=SIDE, dtype=torch.float32
    )
    found = []
    for index, frame in enumerate(FRAMES):
        pixels = (torch.from_numpy(frame).permute(2, 0, 1) - MEAN) / STD
        if index == 0:
            for number in range(len(points)):
                place = session.obj_id_to_idx(number + 1)
                prompt = {
                    "point_coords": torch.from_numpy(points[number])[None, None],
                    "point_labels": torch.from_numpy(labels[number])[None, None],
                }
                session.add_point_inputs(place, 0, prompt)
                session.obj_with_new_inputs.append(number + 1)
        out = network(inference_session=session, frame=pixels[None])
        found.append(out.pred_masks[:, 0].numpy())
    return found


@pytest.fixture
def bundle(edgetam_bundle: Path) -> Path:
    return edgetam_bundle


def test_bundle_tracks_as_transformers_session_over_thirty_frames(
    bundle: Path, network: Any
) -> None:
    require_same_tracks(bundle, network)


def test_bundle_with_the_published_encoder_tracks_as_transformers_session(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed; it needs torchvision")
    network = make(repvit_vision())
    export_bundle(EdgeTAM(network, objects=2), tmp_path / "b", size=(SIDE, SIDE), logits=True)
    require_same_tracks(tmp_path / "b", network)


def require_same_tracks(bundle: Path, network: Any) -> None:
    """Mask logits and labels of the bundle and of transformers' session, frame by frame."""
    wanted = track(network, POINTS, LABELS)
    assert np.abs(wanted[-1] - wanted[0]).max() > 0.1
    with streamseg.open(bundle, native=False) as stream:
        stream.give("points", POINTS)
        stream.give("point_labels", LABELS)
        for index, (frame, masks) in enumerate(zip(FRAMES, wanted, strict=True)):
            result = stream.step(frame)
            scores = torch.from_numpy(np.concatenate([np.zeros_like(masks[:1]), masks]))[None]
            full = torch.nn.functional.interpolate(scores, size=(SIDE, SIDE), mode="bilinear")[0]
            error = np.abs(result.logits - full.numpy()).max()
            assert error < 2e-3 * max(1.0, np.abs(masks).max()), index
            first, second = np.sort(full.numpy(), 0)[::-1][:2]
            clear = first - second > 1e-2
            assert (result.labels == full.numpy().argmax(0))[clear].all()


def test_snapshot_reset_and_another_prompt(bundle: Path) -> None:
    with streamseg.open(bundle, native=False) as stream:
        with pytest.raises(StateMismatch, match="'points' has no values"):
            stream.step(FRAMES[0])
        stream.give("points", POINTS)
        stream.give("point_labels", LABELS)
        first = [stream.step(frame).labels for frame in FRAMES[:5]]
        saved = stream.snapshot()
        later = [stream.step(frame).logits for frame in FRAMES[5:9]]
        stream.restore(saved)
        again = [stream.step(frame).logits for frame in FRAMES[5:9]]
        assert all(np.array_equal(a, b) for a, b in zip(later, again, strict=True))
        stream.reset()
        assert np.array_equal(stream.step(FRAMES[0]).labels, first[0])
        stream.reset()
        stream.give("points", POINTS[::-1].copy())
        swapped = stream.step(FRAMES[0]).logits
        stream.reset()
        stream.give("points", POINTS)
        np.testing.assert_allclose(stream.step(FRAMES[0]).logits[[0, 2, 1]], swapped, atol=1e-4)


def test_a_box_is_a_prompt_of_two_points(network: Any) -> None:
    from streamseg.export.torch_replay import Replay

    corners = np.array([[[10.0, 8.0], [40.0, 50.0]]], np.float32)
    labels = np.array([[2, 3]], np.int32)
    wanted = track(network, corners, labels)[:3]
    given = {"points": torch.from_numpy(corners), "point_labels": torch.from_numpy(labels)}
    replay = Replay(EdgeTAM(network, points=2), (SIDE, SIDE), given=given)
    with torch.no_grad():
        for frame, masks in zip(FRAMES[:3], wanted, strict=True):
            scores = replay.scores(torch.from_numpy(frame)[None])
            np.testing.assert_allclose(scores[0, 1:].numpy(), masks, atol=1e-3, rtol=1e-3)


def test_folder_is_built_and_other_folders_are_rejected(network: Any, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "origin")
    model = build(str(tmp_path / "origin"), objects=3)
    assert [entry.name for entry in model.classes] == [
        "background",
        *(f"object {i}" for i in (1, 2, 3)),
    ]
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match="holds no EdgeTAM"):
        build(str(tmp_path))
    with pytest.raises(ExportError, match="frames are 64x64"):
        model.check_size((64, 96))

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from streamseg.errors import CheckpointError, DatasetError, TrainingError
from streamseg.export import load_checkpoint
from streamseg.training.history import read_history
from streamseg.training.networks import (
    SILENT_BIAS,
    ClipNetwork,
    fuse_attention,
    resolve_settings,
    start_from,
)
from streamseg.training.saving import save_weights
from tests.training.small import (
    CLASSES,
    CONFIG,
    NETWORK,
    ArrayClip,
    make_dataset,
    make_network,
    run,
)

TOLERANCE = 1e-4


def stepped(model, frames):
    state = model.initial_state(frames.shape[1:3])
    scores = []
    with torch.inference_mode():
        for frame in frames:
            found, *state = model.score(frame[None], *state)
            scores.append(found[0])
    return torch.stack(scores)


def test_trained_whole_clip_equals_stepping_the_saved_weights(tmp_path):
    report = run(tmp_path / "run")
    model = load_checkpoint(report.weights).eval()
    frames = torch.randint(0, 256, (5, 32, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        whole, auxiliary = ClipNetwork(model)(frames[None])
    alone = stepped(model, frames)
    assert (whole[0] - alone).abs().max() < TOLERANCE
    assert auxiliary.shape == whole.shape
    # A state that did nothing would pass too.
    reset = torch.stack([stepped(model, frame[None])[0] for frame in frames])
    assert (reset - alone)[1:].abs().max() > 100 * TOLERANCE


def test_saved_weights_carry_names_and_licence(tmp_path):
    network = make_network()
    save_weights(
        network, tmp_path / "w.safetensors", license="Apache-2.0", size=(64, 64), half=True
    )
    model = load_checkpoint(tmp_path / "w.safetensors")
    assert [entry.name for entry in model.classes] == [entry.name for entry in CLASSES]
    assert [entry.color for entry in model.classes] == [entry.color for entry in CLASSES]
    assert model.origin.license == "Apache-2.0"
    for name, value in network.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value.half().to(value.dtype))


def test_temporal_network_starts_from_a_frame_network(tmp_path):
    frame = make_network(model="segformer")
    with torch.no_grad():
        for value in frame.parameters():
            value.normal_()
    save_weights(frame, tmp_path / "f.safetensors", license="x", size=(64, 64))
    network = make_network()
    before = network.decode_head.vs.layers[0].mixer.in_proj.weight.clone()
    missing = start_from(network, tmp_path / "f.safetensors")
    assert missing
    assert all(name.startswith("decode_head.vs.") for name in missing)
    head = frame.decode_head
    assert torch.equal(network.decode_head.linear_pred2.weight, head.linear_pred.weight)
    assert torch.equal(network.decode_head.linear_fuse.conv.weight, head.linear_fuse.conv.weight)
    assert torch.equal(network.decode_head.vs.layers[0].mixer.in_proj.weight, before)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, frame.backbone.state_dict()[name])


def test_start_from_other_sizes_is_refused(tmp_path):
    save_weights(make_network(embed_dim=8), tmp_path / "w.safetensors", license="x", size=(64, 64))
    with pytest.raises(CheckpointError, match="the network to train has"):
        start_from(make_network(), tmp_path / "w.safetensors")
    save_weights(
        make_network(encoder="swin_t"), tmp_path / "s.safetensors", license="x", size=(64, 64)
    )
    torch.save({"state_dict": {"fc.weight": torch.ones(1)}}, tmp_path / "o.pth")
    with pytest.raises(CheckpointError, match="no known network has these keys"):
        start_from(make_network(), tmp_path / "o.pth")


def test_unknown_encoder_is_refused():
    with pytest.raises(TrainingError, match="expected one of mit_b0"):
        make_network(encoder="resnet50")


def test_seed_decides_the_initial_weights():
    first, again = make_network().state_dict(), make_network().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_autocast_leaves_the_temporal_blocks_in_float32():
    network = make_network()
    frames = torch.randint(0, 256, (1, 3, 32, 64, 3), dtype=torch.uint8)
    seen = []
    network.decode_head.vs.register_forward_pre_hook(
        lambda _, inputs: seen.extend(tensor.dtype for part in inputs for tensor in part)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, auxiliary = ClipNetwork(network)(frames)
    assert set(seen) == {torch.float32}
    assert scores.dtype == torch.float32
    assert auxiliary.dtype == torch.bfloat16


def test_classes_that_no_label_shows_are_silenced_on_request_only(tmp_path):
    class WithoutLast(ArrayClip):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            found.label[found.label == len(CLASSES) - 1] = 0
            return found

    def biases(path):
        head = load_checkpoint(path).decode_head
        return torch.stack([head.linear_pred.bias, head.linear_pred2.bias]).detach()

    dataset = make_dataset(WithoutLast("a"))
    plain = biases(run(tmp_path / "plain", dataset=dataset).weights)
    report = run(tmp_path / "silent", dataset=dataset, silence_absent=True, half=True)
    silent = biases(report.weights)
    assert plain.min() > SILENT_BIAS / 2
    assert (silent[:, -1] == SILENT_BIAS).all()
    assert (silent[:, :-1] - plain[:, :-1]).abs().max() < 1e-3
    # The next data may show them.
    network = make_network()
    start_from(network, report.weights)
    assert (network.decode_head.linear_pred2.bias[-1] == 0).all()


def test_weights_follow_the_last_step_without_another_look_at_the_data(tmp_path):
    log = tmp_path / "run" / "log.jsonl"

    class UntilTheLastStep(ArrayClip):
        def __getitem__(self, index):
            done = read_history(log)[-1:] if log.is_file() else []
            assert all(entry["step"] < CONFIG.steps for entry in done)
            return super().__getitem__(index)

    dataset = make_dataset(UntilTheLastStep("a"))
    report = run(tmp_path / "run", dataset=dataset, silence_absent=True)
    assert report.weights.is_file()


def test_classes_of_the_start_are_found_by_name(tmp_path):
    first = make_network()
    with torch.no_grad():
        for value in first.parameters():
            value.normal_()
    path = tmp_path / "w.safetensors"
    save_weights(first, path, license="x", size=(64, 64))
    second = make_network()
    second.classes = tuple(
        replace(entry, id=place) for place, entry in enumerate(reversed(first.classes))
    )
    assert start_from(second, path) == []
    for name in ("linear_pred", "linear_pred2", "conv_seg"):
        ours, theirs = (net.decode_head.get_submodule(name).weight for net in (second, first))
        assert torch.equal(ours, theirs.flip(0))
    second.classes = tuple(replace(entry, name=f"new {entry.name}") for entry in second.classes)
    with pytest.raises(DatasetError, match="--classes-by position"):
        start_from(second, path)
    start_from(second, path, classes_by="position")
    assert torch.equal(
        second.decode_head.linear_pred2.weight, first.decode_head.linear_pred2.weight
    )


def test_settings_come_from_the_start(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(make_network(), path, license="x", size=(64, 64))
    found = resolve_settings(replace(NETWORK, settings={}), path).values
    assert (found["window"], found["shift"]) == ((4, 4), (2, 2))
    with pytest.raises(CheckpointError, match="window is 20 in --set, but the file says 4"):
        resolve_settings(replace(NETWORK, settings={"window": 20}), path)


def test_fused_attention_equals_that_of_exported_graphs():
    network = make_network(drop_path=0.0)
    clip = torch.randint(0, 256, (1, 2, 32, 64, 3), dtype=torch.uint8)
    expected, _ = ClipNetwork(network)(clip)
    with profile(activities=[ProfilerActivity.CPU]) as before:
        ClipNetwork(network)(clip)
    fuse_attention(network)
    with profile(activities=[ProfilerActivity.CPU]) as after:
        found, _ = ClipNetwork(network)(clip)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    name = "aten::scaled_dot_product_attention"
    counts = [sum(event.name == name for event in run.events()) for run in (before, after)]
    assert counts == [0, 8]


def test_checkpoint_with_another_unused_classifier_is_taken(tmp_path):
    network = make_network()
    head = network.decode_head
    head.conv_seg = torch.nn.Conv2d(7, len(CLASSES), 1)
    save_weights(network, tmp_path / "w.safetensors", license="Apache-2.0", size=(64, 64))
    fresh = make_network()
    missing = start_from(fresh, tmp_path / "w.safetensors")
    assert missing == ["decode_head.conv_seg.weight"]
    torch.testing.assert_close(fresh.decode_head.linear_pred.weight, head.linear_pred.weight)

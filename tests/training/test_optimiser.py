from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamseg.training.averaging import WeightAverage
from streamseg.training.networks import ClipNetwork
from streamseg.training.optimiser import build_optimiser, schedule, set_learning_rate
from tests.training.small import CONFIG, make_network


def test_head_learns_faster_and_norms_do_not_decay():
    network = make_network()
    names = {id(value): name for name, value in network.named_parameters()}
    config = replace(CONFIG, lr=1e-4, head_lr=10.0, weight_decay=0.05)
    seen = {}
    for group in build_optimiser(ClipNetwork(network), config).param_groups:
        for value in group["params"]:
            seen[names[id(value)]] = (group["lr"], group["weight_decay"])
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert seen.keys() == trained
    assert {name for name in names.values() if name not in trained} == {
        "decode_head.conv_seg.weight",
        "decode_head.conv_seg.bias",
    }
    assert seen["decode_head.linear_pred2.weight"] == (pytest.approx(1e-3), 0.05)
    assert seen["decode_head.vs.layers.0.mixer.A_log"] == (pytest.approx(1e-3), 0.0)
    assert seen["decode_head.linear_fuse.bn.weight"] == (pytest.approx(1e-3), 0.0)
    assert seen["backbone.stages.0.patch_embeddings.proj.weight"] == (1e-4, 0.05)
    assert seen["backbone.stages.0.layer_norm.weight"] == (1e-4, 0.0)
    assert all(decay == 0 for name, (_, decay) in seen.items() if name.endswith("bias"))


def test_schedule_warms_up_linearly_and_decays_to_zero():
    config = replace(CONFIG, steps=10, warmup=4, power=2.0)
    factors = [schedule(step, config) for step in range(11)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.25)
    assert factors[10] == 0
    assert schedule(0, replace(config, warmup=0)) == 1.0


def test_learning_rate_scales_every_groups_peak():
    optimiser = build_optimiser(ClipNetwork(make_network()), replace(CONFIG, lr=1e-4))
    for factor in (0.5, 0.1):
        set_learning_rate(optimiser, factor)
        assert {group["lr"] / group["peak"] for group in optimiser.param_groups} == {factor}


def test_average_follows_weights_and_statistics():
    layer = torch.nn.BatchNorm2d(1)
    average = WeightAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.running_var.fill_(5.0)
    average.update(layer, step=1000)
    kept = torch.nn.BatchNorm2d(1)
    average.copy_to(kept)
    assert kept.weight.item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    assert kept.running_var.item() == pytest.approx(0.9 * 1 + 0.1 * 5)
    average.update(layer, step=0)  # early weights are soon forgotten
    assert average.tensors["weight"].item() == pytest.approx(0.1 * 1.1 + 0.9 * 2)

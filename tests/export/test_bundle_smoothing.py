"""A memory around bundles that exist: equal to PyTorch's around the network, and to NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import streamseg
from streamseg.cli.export import command
from streamseg.errors import ExportError
from streamseg.export import export_bundle
from streamseg.export.bundle_smoothing import remember_bundle
from streamseg.export.graph import trace_module
from streamseg.export.import_spec import FrameInput, ImportSpec, LabelsOutput
from streamseg.export.models import mask2former
from streamseg.export.onnx_import import import_onnx
from streamseg.export.smoothing import PRESETS, SmoothingConfig, remember
from tests.conftest import TinyBundle
from tests.export import tiny
from tests.export.test_smoothing import FRAMES, expected

CONFIG = SmoothingConfig(weight=0.2, slack=1.0, change=90.0)


@pytest.mark.parametrize(("family", "kind"), [("tv3s", "gated"), ("segformer", "warped")])
def test_bundle_with_memory_computes_what_the_network_with_memory_computes(
    family: str, kind: str, tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    export_bundle(
        remember(tiny.build(family), PRESETS[kind]), tmp_path / "a", size=tiny.SIZE, logits=True
    )
    manifest = remember_bundle(
        tiny_bundle(family, "fp32"), tmp_path / "b", PRESETS[kind], logits=True
    )
    assert manifest.model["memory"]["kind"] == kind
    assert [spec.name for spec in manifest.state] == ["memory"]
    with streamseg.open(tmp_path / "a") as ours, streamseg.open(tmp_path / "b") as theirs:
        for frame in FRAMES:
            wanted, got = ours.step(frame), theirs.step(frame)
            np.testing.assert_allclose(got.logits, wanted.logits, atol=2e-3)
        saved = theirs.snapshot()
        last = theirs.step(FRAMES[0]).labels
        theirs.restore(saved)
        assert np.array_equal(theirs.step(FRAMES[0]).labels, last)


def test_labels_made_in_strips_are_smoothed_through_the_logits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Mask2Former takes the largest class strip by strip: no tensor has all its scores."""
    monkeypatch.setattr(mask2former, "STRIP_ELEMENTS", 1)
    network = tiny.build("mask2former")
    export_bundle(network, tmp_path / "labels", size=tiny.SIZE)
    with pytest.raises(ExportError, match="Export or import it with its logits"):
        remember_bundle(tmp_path / "labels", tmp_path / "memory", CONFIG)
    export_bundle(network, tmp_path / "plain", size=tiny.SIZE, logits=True)
    remember_bundle(tmp_path / "plain", tmp_path / "memory", CONFIG, logits=True)
    with torch.no_grad():
        scores = [network.score(torch.from_numpy(frame)[None])[0][0].numpy() for frame in FRAMES]
    with streamseg.open(tmp_path / "memory") as stream:
        for frame, wanted in zip(FRAMES, expected(scores, CONFIG), strict=True):
            np.testing.assert_allclose(stream.step(frame).logits, wanted, atol=2e-3)


class Segmenter(nn.Module):
    """A per-frame network made elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, 8, 5, 2, 2)
        self.classify = nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.encode(image).relu())


@pytest.mark.parametrize("kind", ["logits", "labels"])
def test_imported_graph_is_smoothed_as_numpy_smooths_its_scores(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Segmenter().eval()
    traced = trace_module(network, (torch.zeros(1, 3, *tiny.SIZE),), ["image"], ["scores"])
    onnx.save(traced, tmp_path / "x.onnx")
    spec = ImportSpec(
        frame=FrameInput("image", "NCHW", "float32", std=(255.0,) * 3),
        output=LabelsOutput("scores", "logits"),
        states={},
        classes=(),
    )
    if kind == "labels":
        spec = label_output(tmp_path, spec)
    import_onnx(tmp_path / "x.onnx", tmp_path / "plain", spec, size=tiny.SIZE)
    if kind == "labels":
        with pytest.raises(ExportError, match="import it with its logits"):
            remember_bundle(tmp_path / "plain", tmp_path / "memory", CONFIG)
        assert not (tmp_path / "memory").exists()
        return
    remember_bundle(tmp_path / "plain", tmp_path / "memory", CONFIG, logits=True)
    with torch.no_grad():
        images = [torch.from_numpy(f)[None].permute(0, 3, 1, 2) / 255 for f in FRAMES]
        scores = [network(image)[0].numpy() for image in images]
    with streamseg.open(tmp_path / "memory") as stream:
        for frame, wanted in zip(FRAMES, expected(scores, CONFIG), strict=True):
            full = nn.functional.interpolate(
                torch.from_numpy(wanted)[None], size=tiny.SIZE, mode="bilinear"
            )
            np.testing.assert_allclose(stream.step(frame).logits, full[0].numpy(), atol=2e-3)


def label_output(folder: Path, spec: ImportSpec) -> ImportSpec:
    """The graph with an output of labels that a Mod computes: no scores are behind it."""
    model = onnx.load(folder / "x.onnx")
    helper = onnx.helper
    model.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["image", "one"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["rounded"], to=onnx.TensorProto.INT64),
            helper.make_node("Mod", ["rounded", "four"], ["labels"]),
        ]
    )
    model.graph.initializer.extend(
        [
            helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1]),
            helper.make_tensor("four", onnx.TensorProto.INT64, [], [4]),
        ]
    )
    output = helper.make_tensor_value_info("labels", onnx.TensorProto.INT64, [1, *tiny.SIZE])
    del model.graph.output[:]
    model.graph.output.append(output)
    onnx.save(model, folder / "x.onnx")
    return ImportSpec(
        frame=spec.frame, output=LabelsOutput("labels", "labels"), states={}, classes=tuple("abcd")
    )


def test_bundles_that_cannot_be_smoothed_are_rejected(
    tiny_bundle: TinyBundle, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="the graphs key, propagate"):
        remember_bundle(tiny_bundle("mpvss", "fp32"), tmp_path / "m", CONFIG)
    with pytest.raises(ExportError, match="is fp16; give the float32 bundle a memory"):
        remember_bundle(tiny_bundle("segformer", "fp16"), tmp_path / "m", CONFIG)


def test_command_gives_a_bundle_a_memory(tiny_bundle: TinyBundle, tmp_path: Path) -> None:
    bundle = str(tiny_bundle("segformer", "fp32"))
    out = str(tmp_path / "m")
    done = CliRunner().invoke(command, [bundle, "--memory", "gated", "-o", out])
    assert done.exit_code == 0, done.output
    assert "with memory 'gated', state 10,752 bytes" in done.output
    refused = CliRunner().invoke(command, [bundle, "--size", "64x96", "-o", out])
    assert refused.exit_code == 2
    assert "only --logits may be added" in refused.output

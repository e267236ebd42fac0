"""ONNX graphs made elsewhere become bundles that compute what PyTorch computes, or are refused."""

from __future__ import annotations

import re
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

import streamseg
from streamseg.cli.main import run
from streamseg.errors import ExportError
from streamseg.export.import_spec import (
    FrameInput,
    ImportSpec,
    LabelsOutput,
    match_states,
    read_frame,
    read_output,
)
from streamseg.export.onnx_import import import_onnx
from streamseg.export.parity import moving_pattern
from tests.conftest import ROOT

SIZE = (48, 64)
FRAMES = moving_pattern(SIZE, 8)
STATES = {f"r{i}i": f"r{i}o" for i in range(1, 5)}


class Matting(nn.Module):
    """Recurrent as RobustVideoMatting is: four states that may start as one element."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 6, 8, 10)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1) for a, b in zip((3, *widths), widths, strict=False)
        )
        self.gate = nn.ModuleList(nn.Conv2d(2 * width, width, 3, 1, 1) for width in widths)
        self.out = nn.Conv2d(14, 1, 1)

    def forward(self, src: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        *states, ratio = rest
        x = F.interpolate(src, scale_factor=0.5, mode="bilinear") * (2 * ratio)
        new = []
        for down, gate, old in zip(self.down, self.gate, states, strict=True):
            x = down(x).relu()
            old = old + torch.zeros_like(x)
            weight = gate(torch.cat([x, old], 1)).sigmoid()
            x = (1 - weight) * old + weight * x
            new.append(x)
        deep = F.interpolate(new[3], size=new[0].shape[-2:])
        alpha = self.out(torch.cat([new[0], deep], 1))
        alpha = 20 * (alpha - alpha.mean((2, 3), keepdim=True))
        alpha = F.interpolate(alpha.sigmoid(), size=src.shape[-2:], mode="bilinear")
        return alpha * src, alpha, *new


class ConvLSTM(nn.Module):
    """Two states of equal shape, logits at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, 4, 3, 2, 1)
        self.gates = nn.Conv2d(8, 16, 3, 1, 1)
        self.classify = nn.Conv2d(4, 5, 1)

    def forward(self, image: Tensor, h_in: Tensor, c_in: Tensor) -> tuple[Tensor, ...]:
        x = torch.cat([self.encode(image), h_in], 1)
        i, f, o, g = self.gates(x).chunk(4, 1)
        c = f.sigmoid() * c_in + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return self.classify(h), h, c


def write(
    module: nn.Module, arguments: tuple[Tensor, ...], path: Path, **names: object
) -> nn.Module:
    """The module as PyTorch's own older exporter writes it, which most published files are from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), arguments, path, dynamo=False, **names)
    return module


def write_matting(path: Path) -> nn.Module:
    """The graph of a seeded matting network with a free size, at ``path``."""
    torch.manual_seed(0)
    one = torch.zeros(1, 1, 1, 1)
    free = {name: {1: f"{name}c", 2: f"{name}h", 3: f"{name}w"} for name in STATES}
    return write(
        Matting(),
        (torch.rand(1, 3, *SIZE), *[one] * 4, torch.tensor([0.5])),
        path,
        opset_version=17,
        input_names=["src", *STATES, "downsample_ratio"],
        output_names=["fgr", "pha", *STATES.values()],
        dynamic_axes={"src": {2: "height", 3: "width"}, **free},
    )


@pytest.fixture(scope="module")
def matting(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    path = tmp_path_factory.mktemp("matting") / "rvm.onnx"
    return write_matting(path), path


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("lstm") / "lstm.onnx"
    state = torch.zeros(1, 4, 24, 32)
    module = write(
        ConvLSTM(),
        (torch.rand(1, 3, *SIZE), state, state),
        path,
        opset_version=18,
        input_names=["image", "h_in", "c_in"],
        output_names=["logits", "h_out", "c_out"],
    )
    return module, path


def scaled(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame.astype(np.float32) / 255).permute(2, 0, 1)[None]


MATTING = ImportSpec(
    FrameInput("src", "NCHW", "float32", (0.0,) * 3, (255.0,) * 3),
    LabelsOutput("pha", "alpha", 0.45),
    STATES,
    constants={"downsample_ratio": 0.5},
)
LSTM = ImportSpec(
    read_frame("image:NCHW:float32:imagenet"),
    LabelsOutput("logits", "logits"),
    {"h_in": "h_out", "c_in": "c_out"},
    classes=("a", "b", "c", "d", "e"),
)


def test_matting_network_streams_as_in_pytorch(
    matting: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    module, path = matting
    import_onnx(path, tmp_path / "bundle", MATTING, size=SIZE)
    state = [torch.zeros(1, 1, 1, 1)] * 4
    shares = []
    with streamseg.open(tmp_path / "bundle") as stream, torch.no_grad():
        assert [entry.name for entry in stream.manifest.state] == ["r1", "r2", "r3", "r4"]
        for frame in FRAMES:
            _, alpha, *state = module(scaled(frame), *state, torch.tensor([0.5]))
            labels = stream.step(frame).labels
            assert ((alpha[0, 0].numpy() > 0.45) == labels).mean() > 0.999
            shares.append(labels.mean())
        tensors = stream.snapshot().tensors
    assert 0.02 < np.mean(shares) < 0.98
    for index, tensor in enumerate(state, 1):
        np.testing.assert_allclose(tensors[f"r{index}"], tensor.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("initial", [{}, {"c_in": 2.0}])
def test_lstm_streams_as_in_pytorch_from_any_initial_value(
    initial: dict[str, float], lstm: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    module, path = lstm
    spec = ImportSpec(**{**vars(LSTM), "initial": initial})
    import_onnx(path, tmp_path / "bundle", spec, size=SIZE, logits=True)
    mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    with streamseg.open(tmp_path / "bundle") as stream, torch.no_grad():
        for _ in range(2):  # a reset brings the initial value back
            stream.reset()
            hidden = torch.zeros(1, 4, 24, 32)
            cell = torch.full_like(hidden, initial.get("c_in", 0.0))
            for frame in FRAMES:
                image = (scaled(frame) * 255 - mean) / std
                logits, hidden, cell = module(image, hidden, cell)
                full = F.interpolate(logits, size=SIZE, mode="bilinear")[0].numpy()
                result = stream.step(frame)
                np.testing.assert_allclose(result.logits, full, atol=1e-4)
                assert (result.labels == full.argmax(0)).mean() > 0.999


def test_states_in_each_others_place_are_a_different_network(
    lstm: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    """The mutation that the comparison with PyTorch above catches."""
    module, path = lstm
    spec = ImportSpec(**{**vars(LSTM), "states": {"h_in": "c_out", "c_in": "h_out"}})
    import_onnx(path, tmp_path / "bundle", spec, size=SIZE, logits=True)
    hidden = cell = torch.zeros(1, 4, 24, 32)
    with streamseg.open(tmp_path / "bundle") as stream, torch.no_grad():
        for frame in FRAMES:
            ours = stream.step(frame).logits
            mean = torch.tensor(LSTM.frame.mean).view(1, 3, 1, 1)
            std = torch.tensor(LSTM.frame.std).view(1, 3, 1, 1)
            logits, hidden, cell = module((scaled(frame) * 255 - mean) / std, hidden, cell)
        assert (
            np.abs(ours - F.interpolate(logits, size=SIZE, mode="bilinear")[0].numpy()).max() > 0.01
        )


def test_bgr_frames_reach_the_graph_in_bgr(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["scores"])],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, *SIZE, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    node = helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])
    model.graph.node[0].CopyFrom(node)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("planes", TensorProto.FLOAT, [1, 3, *SIZE])
    )
    onnx.save(model, tmp_path / "colours.onnx")
    spec = ImportSpec(read_frame("image:NHWC:float32:0..255:bgr"), LabelsOutput("planes", "logits"))
    import_onnx(tmp_path / "colours.onnx", tmp_path / "bundle", spec, size=SIZE)
    red = np.zeros((*SIZE, 3), np.uint8)
    red[..., 0] = 200
    with streamseg.open(tmp_path / "bundle") as stream:
        assert (stream.step(red).labels == 2).all()


def loop_model() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_out"]),
            helper.make_node("Add", ["x", "x"], ["x_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "image"], ["scores"], body=body)],
        "loop",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor("count", TensorProto.INT64, [], [3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_loop_is_refused_with_the_reason(tmp_path: Path) -> None:
    onnx.save(loop_model(), tmp_path / "loop.onnx")
    spec = ImportSpec(read_frame("image:NCHW:float32:0..1"), LabelsOutput("scores", "logits"))
    with pytest.raises(ExportError, match=r"contains Loop.*how often its body runs"):
        import_onnx(tmp_path / "loop.onnx", tmp_path / "bundle", spec, size=SIZE)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"constants": {}}, "nothing says what these inputs are: downsample_ratio.*--constant"),
        ({"states": {"r1i": "r1o"}}, "nothing says what these inputs are: r2i, r3i, r4i"),
        ({"states": {**STATES, "r5i": "r1o"}}, "no input 'r5i'; it has: src, r1i"),
        ({"output": LabelsOutput("phb", "alpha")}, "no output 'phb'; it has: fgr, pha"),
        ({"output": LabelsOutput("pha", "logits")}, "give it as pha:alpha"),
        ({"output": LabelsOutput("fgr", "alpha")}, r"is \[1, 3, 48, 64\], expected \[1, 1, h, w\]"),
        ({"initial": {"src": 1.0}}, "'src' has an initial value but is not a state"),
        ({"frame": FrameInput("src", "NHWC", "float32")}, "change --size or the layout"),
    ],
)
def test_wrong_description_is_refused(
    change: dict[str, object], message: str, matting: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    spec = ImportSpec(**{**vars(MATTING), **change})
    with pytest.raises(ExportError, match=message):
        import_onnx(matting[1], tmp_path / "bundle", spec, size=SIZE)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("inputs", "outputs", "pairs"),
    [
        (["r1i", "r2i"], ["pha", "r1o", "r2o"], {"r1i": "r1o", "r2i": "r2o"}),
        (["h.in", "c.in"], ["h.out", "c.out"], {"h.in": "h.out", "c.in": "c.out"}),
        (["h_in"], ["y", "h_out"], {"h_in": "h_out"}),
        (["past_k0"], ["present_k0"], {"past_k0": "present_k0"}),
        (["past.0.key"], ["present.0.key"], {"past.0.key": "present.0.key"}),
        (["mask"], ["mask_out"], {}),
    ],
)
def test_states_are_matched_by_name(
    inputs: list[str], outputs: list[str], pairs: dict[str, str]
) -> None:
    assert match_states(inputs, outputs) == pairs


@pytest.mark.parametrize(
    "text", ["src", "src:CHW:float32:0..1", "src:NCHW:int8:0..1", "a:NCHW:float32:1..0"]
)
def test_unknown_frame_format_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="--frame"):
        read_frame(text)


def test_range_of_a_frame_becomes_mean_and_std() -> None:
    frame = read_frame("src:NCHW:float16:-1..1:bgr")
    assert frame == FrameInput("src", "NCHW", "float16", (127.5,) * 3, (127.5,) * 3, True)
    assert read_output("pha:alpha:0.3") == LabelsOutput("pha", "alpha", 0.3)


def test_command_of_the_page_imports_and_finds_the_states_itself(
    matting: tuple[nn.Module, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs/imported-graphs.md").read_text()
    text = re.search(r"```console\nstreamseg (import .*?)```", page, re.DOTALL)
    assert text is not None
    command = shlex.split(text[1].replace("\\\n", " "))
    shutil.copy(matting[1], tmp_path)
    monkeypatch.chdir(tmp_path)
    without = [w for i, w in enumerate(command) if "--state" not in command[max(i - 1, 0) : i + 1]]
    for arguments in (command, without):
        with pytest.raises(SystemExit) as caught:
            run(arguments)
        assert caught.value.code == 0
        reported = capsys.readouterr().out
        assert "2 classes, state" in reported
        assert "r1, r2, r3, r4" in reported
        assert "in ONNX Runtime, over 6 frames" in reported


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "name them with --classes A,B"),
        (("a", "b"), "gives label 2, but --classes names only 2"),
    ],
)
def test_output_of_labels_needs_every_class_named(
    classes: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["image"], ["found"], axis=3, keepdims=0)],
        "labels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *SIZE, 3])],
        [helper.make_tensor_value_info("found", TensorProto.INT64, [1, *SIZE])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "labels.onnx")
    frame, output = read_frame("image:NHWC:float32:0..255"), LabelsOutput("found", "labels")
    spec = ImportSpec(frame, output, classes=classes)
    with pytest.raises(ExportError, match=message):
        import_onnx(tmp_path / "labels.onnx", tmp_path / "bundle", spec, size=SIZE)

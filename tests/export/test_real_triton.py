"""Repositories in NVIDIA's own server; only its ONNX Runtime backend is a stand-in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("tritonclient.grpc", reason="needs streamseg[triton]")

from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

import streamseg
from tests.batch.archives import read_labels
from tests.export.real_triton import StandIn, build_backend, reason, refusal, running
from tests.export.test_triton import SAMPLE, expected, frames, recurrent, stateless, write
from tests.runtime.clips import write_clip

__all__ = ["recurrent", "stateless"]  # fixtures
Image = np.ndarray[Any, Any]


@dataclass
class Server:
    """A running server and what the stand-in has seen."""

    address: str
    stand_in: StandIn
    client: InferenceServerClient

    def send(self, picture: Image, sequence: int, **flags: bool) -> Any:
        request = InferInput("frame", [1, *picture.shape], "UINT8")
        request.set_data_from_numpy(picture[None])
        names = {f"sequence_{name}": value for name, value in flags.items()}
        return self.client.infer("street", [request], sequence_id=sequence, **names)

    def label(self, picture: Image, sequence: int, **flags: bool) -> Image:
        labels = self.send(picture, sequence, **flags).as_numpy("labels")
        assert labels is not None
        return labels[0]


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_backend(tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="module")
def server(
    recurrent: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    model = write(recurrent, folder / "models", sequences=2, idle_seconds=2)
    with (
        running(model, backends, folder / "run") as (address, stand_in, _),
        InferenceServerClient(address) as client,
    ):
        assert reason(address) == ""
        yield Server(address, stand_in, client)


def test_interleaved_sequences_have_their_own_state(server: Server, recurrent: Path) -> None:
    videos = {number: frames(5, seed=number) for number in (1, 2)}
    wanted = {number: expected(recurrent, pictures) for number, pictures in videos.items()}
    for index in range(5):
        for number in (1, 2) if index % 2 else (2, 1):
            flags = {"start": index == 0, "end": index == 4}
            got = server.label(videos[number][index], number, **flags)
            np.testing.assert_array_equal(got, wanted[number][index])


def test_state_is_carried_and_a_new_start_forgets_it(server: Server, recurrent: Path) -> None:
    pictures = frames(3)
    with streamseg.open(recurrent, threads=1) as stream:
        for index, picture in enumerate(pictures):
            logits = server.send(picture, 3, start=index == 0).as_numpy("logits")
            np.testing.assert_array_equal(logits[0], stream.step(picture).logits)
        stream.reset()
        fresh = server.send(pictures[2], 3, start=True, end=True).as_numpy("logits")
        np.testing.assert_array_equal(fresh[0], stream.step(pictures[2]).logits)
    assert (fresh != logits).any(), "state must matter here"


def test_sequence_must_start_and_ends_when_idle(server: Server) -> None:
    (picture,) = frames(1)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        server.send(picture, 4)
    server.send(picture, 4, start=True)
    time.sleep(1)
    server.send(picture, 4)
    time.sleep(4.5)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        server.send(picture, 4)


def test_stream_beyond_the_candidates_waits_for_a_slot(server: Server, recurrent: Path) -> None:
    pictures = frames(2)
    for number in (5, 6):
        server.send(pictures[0], number, start=True)
    with ThreadPoolExecutor(1) as pool, InferenceServerClient(server.address) as other:
        third = Server(server.address, server.stand_in, other)
        waiting = pool.submit(third.label, pictures[0], 7, start=True, end=True)
        time.sleep(0.5)
        assert not waiting.done()
        server.send(pictures[1], 5, end=True)
        np.testing.assert_array_equal(waiting.result(30), expected(recurrent, pictures)[0])
    server.send(pictures[1], 6, end=True)


def test_sample_client_streams_a_video(server: Server, recurrent: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6, size=(48, 80))
    command = [sys.executable, str(SAMPLE), "--url", server.address, "--model", "street"]
    options = ["--source", str(clip), "--labels", str(tmp_path / "labels"), "--warm-up"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with streamseg.open(recurrent, threads=1) as stream, streamseg.open_source(str(clip)) as video:
        wanted = [stream.step(frame.image).labels.copy() for frame in video]
    found = read_labels(tmp_path / "labels")
    assert len(found) == 6
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_stateless_model_is_warm_before_the_first_request(
    stateless: Path, backends: Path, tmp_path: Path
) -> None:
    model = write(stateless, tmp_path / "models", name="street")
    with (
        running(model, backends, tmp_path / "run") as (address, stand_in, _),
        InferenceServerClient(address) as client,
    ):
        assert stand_in.served == 1
        server, pictures = Server(address, stand_in, client), frames(2)
        for picture, want in zip(pictures, expected(stateless, pictures), strict=True):
            np.testing.assert_array_equal(server.label(picture, 0), want)


def test_warm_up_by_configuration_would_keep_a_model_with_state_from_loading(
    recurrent: Path, backends: Path, tmp_path: Path
) -> None:
    model = write(recurrent, tmp_path / "models", sequences=1)
    config, inputs = (model / "config.pbtxt").read_text(), ""
    for entry in onnx.load(recurrent / "step.onnx").graph.input:
        dims = ", ".join(str(axis.dim_value) for axis in entry.type.tensor_type.shape.dim)
        kind = "TYPE_UINT8" if entry.name == "frame" else "TYPE_FP32"
        value = f"value {{ data_type: {kind} dims: [ {dims} ] zero_data: true }}"
        inputs += f'inputs {{ key: "{entry.name}" {value} }}\n'
    warm = f'model_warmup {{ name: "w" batch_size: 1\n{inputs}}}\n'
    (model / "config.pbtxt").write_text(config + warm)
    message = refusal(model, backends, tmp_path / "run")
    assert "failed to run warmup sample 'w': unable to add state 'layer0.conv.out'" in message


def test_initial_state_without_a_name_is_refused(
    recurrent: Path, backends: Path, tmp_path: Path
) -> None:
    model = write(recurrent, tmp_path / "models", sequences=1)
    config = model / "config.pbtxt"
    kept = [line for line in config.read_text().splitlines() if ".zeros" not in line]
    config.write_text("\n".join(kept))
    message = refusal(model, backends, tmp_path / "run")
    assert "'name' must be set when using initial_state" in message


def test_states_are_paired_by_sorted_names_and_swap_where_those_disagree(
    backends: Path, tmp_path: Path
) -> None:
    """Why ``check_pairing`` refuses such names."""
    model = tmp_path / "models/street"
    (model / "1").mkdir(parents=True)
    write_counters(model / "1/model.onnx", {"cache": 1.0, "cache.length": 10.0})
    states = "".join(
        f'state {{ input_name: "{name}.in" output_name: "{name}.out" data_type: TYPE_FP32 '
        f"dims: [ 1 ] initial_state {{ data_type: TYPE_FP32 dims: [ 1 ] zero_data: true "
        f'name: "z" }}'
        "}\n"
        for name in ("cache", "cache.length")
    )
    (model / "config.pbtxt").write_text(
        'name: "street" backend: "onnxruntime" max_batch_size: 0\n'
        'input { name: "frame" data_type: TYPE_UINT8 dims: [ 1, 2, 2, 3 ] }\n'
        'output { name: "seen" data_type: TYPE_FP32 dims: [ 2 ] }\n'
        f"sequence_batching {{ oldest {{ max_candidate_sequences: 1 }}\n{states}}}\n"
    )
    with (
        running(model, backends, tmp_path / "run") as (address, stand_in, _),
        InferenceServerClient(address) as client,
    ):
        server, picture = Server(address, stand_in, client), np.zeros((2, 2, 3), np.uint8)
        first = server.send(picture, 1, start=True).as_numpy("seen")
        second = server.send(picture, 1, end=True).as_numpy("seen")
    assert first.tolist() == [0, 0]
    assert second.tolist() == [10, 1], "the first state got what the second put out"


def write_counters(path: Path, steps: dict[str, float]) -> None:
    """A graph whose states grow by ``steps``; ``seen`` is what came in."""
    one = [1]
    inputs = [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 2, 2, 3])]
    outputs = [helper.make_tensor_value_info("seen", TensorProto.FLOAT, [2])]
    nodes, constants = [], []
    for name, step in steps.items():
        inputs.append(helper.make_tensor_value_info(f"{name}.in", TensorProto.FLOAT, one))
        outputs.append(helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, one))
        constants.append(helper.make_tensor(f"{name}.step", TensorProto.FLOAT, one, [step]))
        nodes.append(helper.make_node("Add", [f"{name}.in", f"{name}.step"], [f"{name}.out"]))
    nodes.append(helper.make_node("Concat", [f"{name}.in" for name in steps], ["seen"], axis=0))
    graph = helper.make_graph(nodes, "counters", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, path)

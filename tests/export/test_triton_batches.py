"""Bundles for several streams a step in Triton: batches of those that are ready, states apart.

Every stream is compared bit for bit with the same graph fed with that stream alone, and, within
rounding, with the bundle of one stream on the CPU backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("tritonclient.grpc", reason="needs streamseg[triton]")

from tritonclient.grpc import InferenceServerClient, InferInput

import streamseg
from streamseg.cli.main import run
from streamseg.errors import ExportError
from streamseg.export.batched_bundle import batch_bundle
from streamseg.runtime.backends.onnxruntime import open_cpu_session
from tests.export.real_triton import StandIn, build_backend, reason, running
from tests.export.test_triton import engine_of, frames, recurrent, stateless, write
from tests.export.triton_server import Request, Slot, Tensors, TritonModel, read_config

__all__ = ["recurrent", "stateless"]  # fixtures
BATCH, SEQUENCES = 3, 4
Array = np.ndarray[Any, Any]


@dataclass
class Event:
    """A frame that a stream sends at a tick of the test's clock."""

    tick: int
    picture: Array
    start: bool
    end: bool


def course(sequence: int, ticks: int = 9) -> list[Event]:
    """A stream that joins late, skips frames, begins anew once without an END, and leaves."""
    random = np.random.default_rng(sequence)
    first = int(random.integers(0, 3))
    sent = [first, *(tick for tick in range(first + 1, ticks) if random.random() < 0.75)]
    anew = sent[len(sent) // 2]
    pictures = frames(ticks, seed=sequence)
    return [
        Event(tick, pictures[tick], start=tick in (first, anew), end=tick == sent[-1])
        for tick in sent
    ]


COURSES = {sequence: course(sequence) for sequence in range(1, SEQUENCES + 2)}


@pytest.fixture(scope="module")
def batched(recurrent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batched") / "street"
    batch_bundle(recurrent, folder, BATCH)
    return folder


@pytest.fixture(scope="module")
def model(batched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write(batched, folder, sequences=SEQUENCES, batch_wait_ms=20, idle_seconds=30)


def alone(model: Path, events: list[Event]) -> list[Tensors]:
    """Outputs of the model's own graph for one stream by itself."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    for library in read_config(model / "config.pbtxt").model_operations.op_library_filename:
        settings.register_custom_ops_library(library)
    session = open_cpu_session((model / "1/model.onnx").read_bytes(), settings)
    names = [entry.name for entry in session.get_outputs()]
    empty = {
        entry.name: np.zeros((1, *entry.shape[1:]), np.float32)
        for entry in session.get_inputs()
        if entry.name != "frame"
    }
    state, answers = empty, []
    for event in events:
        feeds = {**(empty if event.start else state), "frame": event.picture[None]}
        found = dict(zip(names, session.run(names, feeds), strict=True))
        state = {name: found[f"{name.removesuffix('.in')}.out"] for name in empty}
        answers.append({name: found[name] for name in ("labels", "logits")})
    return answers


@pytest.fixture(scope="module")
def wanted(model: Path) -> dict[int, list[Tensors]]:
    return {sequence: alone(model, events) for sequence, events in COURSES.items()}


def compare(found: dict[int, list[Tensors]], wanted: dict[int, list[Tensors]]) -> None:
    for sequence, answers in wanted.items():
        assert len(found[sequence]) == len(answers)
        for got, want in zip(found[sequence], answers, strict=True):
            for name in want:
                np.testing.assert_array_equal(got[name], want[name], err_msg=str(sequence))


def test_configuration_leaves_the_axis_of_streams_to_triton(model: Path) -> None:
    config, graph = read_config(model / "config.pbtxt"), onnx.load(model / "1/model.onnx").graph
    assert config.max_batch_size == BATCH
    oldest = config.sequence_batching.oldest
    assert oldest.max_candidate_sequences == SEQUENCES
    assert oldest.max_queue_delay_microseconds == 20_000
    named = {entry.name: list(entry.dims) for entry in (*config.input, *config.output)}
    for state in config.sequence_batching.state:
        named[state.input_name] = named[state.output_name] = list(state.dims)
        assert list(state.initial_state[0].dims) == list(state.dims)
    declared = {}
    for entry in (*graph.input, *graph.output):
        first, *others = entry.type.tensor_type.shape.dim
        assert first.dim_param, "Triton requires an open first axis"
        declared[entry.name] = [axis.dim_value for axis in others]
    assert named == declared


def test_a_stream_alone_is_the_same_stream_of_the_single_bundle(
    recurrent: Path, wanted: dict[int, list[Tensors]]
) -> None:
    for sequence, events in COURSES.items():
        with streamseg.open(recurrent, backend="onnxruntime", threads=1) as stream:
            for event, answer in zip(events, wanted[sequence], strict=True):
                if event.start:
                    stream.reset()
                result = stream.step(event.picture)
                np.testing.assert_allclose(answer["logits"][0], result.logits, rtol=0, atol=1e-5)
                assert (answer["labels"][0] == result.labels).mean() > 0.999


def execute(server: TritonModel) -> dict[int, list[Tensors]]:
    """All courses, tick by tick; streams beyond the candidates wait."""
    requests: dict[int, list[Request]] = {sequence: [] for sequence in COURSES}
    for tick in range(9):
        for sequence, events in COURSES.items():
            for event in events:
                if event.tick == tick:
                    request = Request(event.picture[None], sequence, event.start, event.end)
                    requests[sequence].append(request)
                    server.submit(request)
        server.run()
    return {
        sequence: [request.answer or {} for request in sent] for sequence, sent in requests.items()
    }


def test_streams_join_leave_restart_and_skip_without_touching_others(
    model: Path, wanted: dict[int, list[Tensors]]
) -> None:
    server = TritonModel(model)
    compare(execute(server), wanted)
    assert (min(server.batches), max(server.batches)) == (1, BATCH)


class StartIgnored(TritonModel):
    def _forget(self, slot: Slot) -> None:
        pass


class StatesSwapped(TritonModel):
    def _gather(self, requests: list[Request], slots: list[Slot]) -> Tensors:
        return {
            **super()._gather(requests, slots[::-1]),
            "frame": np.concatenate([request.frame for request in requests]),
        }


class RowsShifted(TritonModel):
    """As if a row that only fills the batch stood before the others."""

    def _row(self, array: Array, place: int) -> Array:
        return super()._row(array, (place + 1) % len(array))


@pytest.mark.parametrize("mistaken", [StartIgnored, StatesSwapped, RowsShifted])
def test_comparison_notices_a_server_that_mixes_streams(
    mistaken: type[TritonModel], model: Path, wanted: dict[int, list[Tensors]]
) -> None:
    with pytest.raises(AssertionError):
        compare(execute(mistaken(model)), wanted)


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_backend(tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="module")
def server(
    model: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, StandIn]]:
    with running(model, backends, tmp_path_factory.mktemp("run")) as (address, stand_in, _):
        assert reason(address) == ""
        yield address, stand_in


def send(client: InferenceServerClient, event: Event, sequence: int = 0) -> Tensors:
    request = InferInput("frame", [1, *event.picture.shape], "UINT8")
    request.set_data_from_numpy(event.picture[None])
    flags = {"sequence_start": event.start, "sequence_end": event.end} if sequence else {}
    answer = client.infer("street", [request], sequence_id=sequence, **flags)
    entries = answer.get_response().outputs
    return {entry.name: answer.as_numpy(entry.name) for entry in entries}


def play(address: str, sequence: int) -> list[Tensors]:
    with InferenceServerClient(address) as client:
        return [send(client, event, sequence) for event in COURSES[sequence]]


def test_real_server_batches_streams_and_keeps_their_states_apart(
    server: tuple[str, StandIn], wanted: dict[int, list[Tensors]]
) -> None:
    address, stand_in = server
    with ThreadPoolExecutor(len(COURSES)) as pool:
        played = {name: pool.submit(play, address, name) for name in COURSES}
        found = {name: answers.result(60) for name, answers in played.items()}
    compare(found, wanted)
    assert 1 < max(stand_in.batches) <= BATCH


def test_real_server_batches_frames_of_a_stateless_network(
    stateless: Path, backends: Path, tmp_path: Path
) -> None:
    batch_bundle(stateless, tmp_path / "street", BATCH)
    model = write(tmp_path / "street", tmp_path / "models", batch_wait_ms=200)
    assert not read_config(model / "config.pbtxt").HasField("sequence_batching")
    pictures = frames(BATCH)
    with running(model, backends, tmp_path / "run") as (address, stand_in, _):
        assert reason(address) == ""
        assert stand_in.batches == [1], "the warm-up"

        def label(picture: Array) -> Array:
            with InferenceServerClient(address) as client:
                return send(client, Event(0, picture, start=False, end=False))["labels"][0]

        with ThreadPoolExecutor(BATCH) as pool:
            found = list(pool.map(label, pictures))
        assert max(stand_in.batches) > 1
    with streamseg.open(stateless, threads=1) as stream:
        for got, picture in zip(found, pictures, strict=True):
            assert (got == stream.step(picture).labels).mean() > 0.999


def test_what_cannot_batch_is_refused(recurrent: Path, batched: Path, tmp_path: Path) -> None:
    engine = engine_of(batched, tmp_path / "step.engine")
    with pytest.raises(ExportError, match="runs exactly 3 streams a step, and Triton hands over"):
        write(batched, tmp_path / "r", sequences=4, engine=engine)
    with pytest.raises(ExportError, match="serves one stream a step, so that nothing waits"):
        write(recurrent, tmp_path / "r", sequences=4, batch_wait_ms=5)
    assert not (tmp_path / "r").exists()


def test_command_prints_the_streams_of_a_step(
    batched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["triton", str(batched), "-o", str(tmp_path / "models"), "--sequences", "16"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "up to 3 streams a step, those that are ready" in text
    assert "16 streams at once" in text

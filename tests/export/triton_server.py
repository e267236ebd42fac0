"""What Triton's documents and sources say about sequences with implicit state, to run in a test.

Reads a model's folder as a server would: ``config.pbtxt`` through Triton's schema, the graph in a
session of its own. Candidates, backlog, START and END, idle sequences, zeroed first state, and the
pairing of states by the sorted order of their names.
"""

from __future__ import annotations

from collections import deque
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from streamseg.runtime.backends.onnxruntime import open_cpu_session

NUMPY = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8, "INT32": np.int32}
Tensors = dict[str, np.ndarray[Any, Any]]


def numpy_type(data_type: int) -> Any:
    return NUMPY[model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")]


def read_config(path: Path) -> Any:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


class Refused(Exception):
    """An answer with an error status."""


@dataclass
class Request:
    frame: np.ndarray[Any, Any]
    sequence: int
    start: bool = False
    end: bool = False
    answer: Tensors | None = None


@dataclass
class Slot:
    """A candidate: its sequence's state, and when it was last heard of."""

    state: Tensors
    heard: float
    waiting: deque[Request] = field(default_factory=deque)


class TritonModel:
    """One model; time is a number that the test moves.

    The session skips the fusion that streamseg skips, so that labels can differ only by what
    happens to sequences; with ``all_fusions`` it is what Triton's backend opens.
    """

    def __init__(self, folder: Path, *, all_fusions: bool = False) -> None:
        self.config = read_config(folder / "config.pbtxt")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        for library in self.config.model_operations.op_library_filename:
            settings.register_custom_ops_library(library)
        content = (folder / "1" / "model.onnx").read_bytes()
        if all_fusions:
            providers = ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(content, settings, providers=providers)
        else:
            self.session = open_cpu_session(content, settings)
        self.batching = self.config.sequence_batching
        self.now = 0.0
        self.slots: dict[int, Slot] = {}
        self.backlog: dict[int, deque[Request]] = {}
        inputs = sorted(state.input_name for state in self.batching.state)
        outputs = sorted(state.output_name for state in self.batching.state)
        self.paired = dict(zip(outputs, inputs, strict=True))

    def submit(self, request: Request) -> None:
        """Queue a request; ``run`` executes what has a slot."""
        self._reap()
        number = request.sequence
        if not request.start and number not in self.slots and number not in self.backlog:
            raise Refused(f"sequence {number} must specify the START flag on its first request")
        if number in self.backlog:
            self.backlog[number].append(request)
        elif number in self.slots:
            self.slots[number].waiting.append(request)
        elif len(self.slots) < self.batching.oldest.max_candidate_sequences:
            self.slots[number] = Slot(self._first_state(), self.now, deque([request]))
        else:
            self.backlog[number] = deque([request])
        if number in self.slots:
            self.slots[number].heard = self.now

    def run(self) -> list[Request]:
        """Execute everything that can be; in the order executed."""
        done = []
        while ready := [slot for slot in self.slots.values() if slot.waiting]:
            request = ready[0].waiting.popleft()
            slot = self.slots[request.sequence]
            if request.start:
                slot.state = self._first_state()
            request.answer = self._execute(request, slot)
            done.append(request)
            if request.end:
                self._release(request.sequence)
        return done

    def infer(self, request: Request) -> Tensors:
        self.submit(request)
        self.run()
        if request.answer is None:
            raise Refused("no slot was free")
        return request.answer

    def _execute(self, request: Request, slot: Slot) -> Tensors:
        names = [entry.name for entry in self.session.get_outputs()]
        found = self.session.run(names, {"frame": request.frame, **slot.state})
        produced = dict(zip(names, found, strict=True))
        slot.state = {self.paired[name]: produced[name] for name in self.paired}
        return {entry.name: produced[entry.name] for entry in self.config.output}

    def _first_state(self) -> Tensors:
        state = {}
        for entry in self.batching.state:
            (initial,) = entry.initial_state
            assert initial.zero_data
            assert initial.name, "Triton refuses an initial state without a name"
            state[entry.input_name] = np.zeros(tuple(initial.dims), numpy_type(initial.data_type))
        return state

    def _release(self, number: int) -> None:
        del self.slots[number]
        if self.backlog:
            number = next(iter(self.backlog))
            waiting = self.backlog.pop(number)
            self.slots[number] = Slot(self._first_state(), self.now, waiting)

    def _reap(self) -> None:
        limit = self.batching.max_sequence_idle_microseconds / 1e6
        for number, slot in list(self.slots.items()):
            if not slot.waiting and self.now - slot.heard > limit:
                self._release(number)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The two calls that the sample client makes, over the real protocol."""

    def __init__(self, name: str, model: TritonModel) -> None:
        self.name, self.model = name, model
        self.seen: list[tuple[int, bool, bool]] = []

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        answer = service_pb2.ModelMetadataResponse(name=self.name)
        for entry in self.model.config.input:
            kind = model_config_pb2.DataType.Name(entry.data_type).removeprefix("TYPE_")
            answer.inputs.add(name=entry.name, datatype=kind, shape=entry.dims)
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        parameters = request.parameters
        number = parameters["sequence_id"].int64_param
        start = parameters["sequence_start"].bool_param
        end = parameters["sequence_end"].bool_param
        self.seen.append((number, start, end))
        (entry,) = request.inputs
        frame = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(entry.shape)
        try:
            answer = self.model.infer(Request(frame, number, start, end))
        except Refused as refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for wanted in request.outputs:
            content = np.ascontiguousarray(answer[wanted.name])
            assert content.dtype == np.uint8
            response.outputs.add(name=wanted.name, datatype="UINT8", shape=content.shape)
            response.raw_output_contents.append(content.tobytes())
        return response


def serve(name: str, model: TritonModel) -> tuple[Any, Servicer, str]:
    """A gRPC server on a free loopback port: server, servicer, address."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    servicer = Servicer(name, model)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, servicer, f"127.0.0.1:{port}"

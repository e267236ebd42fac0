"""What Triton's documents and sources say about sequences with implicit state, to run in a test.

Reads a model's folder as a server would: ``config.pbtxt`` through Triton's schema, the graph in a
session of its own. Candidates, backlog, START and END, idle sequences, zeroed first state, the
pairing of states by the sorted order of their names, and batches of at most one frame a sequence
with the states of each.
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
        self.batches: list[int] = []
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
        most = max(1, self.config.max_batch_size)
        while ready := [slot for slot in self.slots.values() if slot.waiting][:most]:
            requests = [slot.waiting.popleft() for slot in ready]
            for request, slot in zip(requests, ready, strict=True):
                if request.start:
                    self._forget(slot)
            self._execute(requests, ready)
            done += requests
            for request in requests:
                if request.end:
                    self._release(request.sequence)
        return done

    def infer(self, request: Request) -> Tensors:
        self.submit(request)
        self.run()
        if request.answer is None:
            raise Refused("no slot was free")
        return request.answer

    def _execute(self, requests: list[Request], slots: list[Slot]) -> None:
        """Run one batch, gathered along the first axis and split along it."""
        self.batches.append(len(requests))
        fed = self._gather(requests, slots)
        names = [entry.name for entry in self.session.get_outputs()]
        produced = dict(zip(names, self.session.run(names, fed), strict=True))
        for place, (request, slot) in enumerate(zip(requests, slots, strict=True)):
            own = {name: self._row(array, place) for name, array in produced.items()}
            slot.state = {self.paired[name]: own[name] for name in self.paired}
            request.answer = {entry.name: own[entry.name] for entry in self.config.output}

    def _gather(self, requests: list[Request], slots: list[Slot]) -> Tensors:
        fed = {"frame": np.concatenate([request.frame for request in requests])}
        for name in self.paired.values():
            fed[name] = np.concatenate([slot.state[name] for slot in slots])
        return fed

    def _row(self, array: np.ndarray[Any, Any], place: int) -> np.ndarray[Any, Any]:
        return array[place : place + 1] if self.config.max_batch_size else array

    def _forget(self, slot: Slot) -> None:
        slot.state = self._first_state()

    def _first_state(self) -> Tensors:
        state = {}
        leading = (1,) if self.config.max_batch_size else ()
        for entry in self.batching.state:
            (initial,) = entry.initial_state
            assert initial.zero_data
            assert initial.name, "Triton refuses an initial state without a name"
            shape = (*leading, *initial.dims)
            state[entry.input_name] = np.zeros(shape, numpy_type(initial.data_type))
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
            leading = [-1] if self.model.config.max_batch_size else []
            answer.inputs.add(name=entry.name, datatype=kind, shape=[*leading, *entry.dims])
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

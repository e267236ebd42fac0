"""NVIDIA's own server, from a wheel (``make triton-server``), with a stand-in for one backend.

The wheel brings the server without its ONNX Runtime backend. tests/native/triton_backend.cpp takes
that place and asks this process to run the model; all else is Triton's: the configuration's checks,
the sequence batcher, the states and their pairing, warm-up, gRPC.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from streamseg.runtime.backends.onnxruntime import open_cpu_session
from tests.export.triton_server import read_config

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(os.environ.get("STREAMSEG_TRITON", ROOT / "build/triton"))
BINARY = SERVER / "pytriton/tritonserver/bin/tritonserver"
SOURCE = ROOT / "tests/native/triton_backend.cpp"
# Triton's numbers of data types, and NumPy's names.
TYPES = {"uint8": 2, "float32": 11}


def take(stream: Any, kind: str) -> Any:
    """Numbers of a format of ``struct``."""
    return struct.unpack(f"<{kind}", stream.read(struct.calcsize(f"<{kind}")))


class StandIn(threading.Thread):
    """Runs the graph of one model for the backend; ``batches`` are the sizes of its calls."""

    def __init__(self, folder: Path, path: Path) -> None:
        super().__init__(daemon=True)
        config = read_config(folder / "config.pbtxt")
        self.states = {state.output_name for state in config.sequence_batching.state}
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        for library in config.model_operations.op_library_filename:
            settings.register_custom_ops_library(library)
        content = (folder / "1" / "model.onnx").read_bytes()
        self.session = open_cpu_session(content, settings)
        self.types = {
            entry.name: np.uint8 if "uint8" in entry.type else np.float32
            for entry in self.session.get_inputs()
        }
        self.batched = config.max_batch_size > 0
        self.batches: list[int] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                try:
                    self._serve(stream)
                except struct.error:
                    continue  # the backend could not read the request

    def _serve(self, stream: Any) -> None:
        """Run the requests of one call: one by one, or together where the model has a batch."""
        feeds = [self._receive(stream) for _ in range(take(stream, "I")[0])]
        names = [entry.name for entry in self.session.get_outputs()]
        if self.batched:
            whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            rows = zip(*(np.split(array, len(feeds)) for array in self._run(whole)), strict=True)
        else:
            rows = (self._run(feed) for feed in feeds)
        for found in list(rows):
            self._send(stream, dict(zip(names, found, strict=True)))
        self.batches.append(len(feeds))
        stream.flush()

    def _run(self, feeds: dict[str, Any]) -> list[Any]:
        return self.session.run(None, feeds)  # type: ignore[no-any-return]

    def _receive(self, stream: Any) -> dict[str, Any]:
        feeds = {}
        for _ in range(take(stream, "I")[0]):
            name = stream.read(take(stream, "I")[0]).decode()
            shape = take(stream, f"{take(stream, 'I')[0]}q")
            content = stream.read(take(stream, "Q")[0])
            feeds[name] = np.frombuffer(content, self.types[name]).reshape(shape)
        return feeds

    def _send(self, stream: Any, found: dict[str, Any]) -> None:
        stream.write(struct.pack("<I", len(found)))
        for name, array in found.items():
            content = np.ascontiguousarray(array).tobytes()
            encoded = name.encode()
            stream.write(struct.pack("<I", len(encoded)) + encoded)
            stream.write(struct.pack("<Ii", name in self.states, TYPES[str(array.dtype)]))
            stream.write(struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape))
            stream.write(struct.pack("<Q", len(content)) + content)

    @property
    def served(self) -> int:
        """Requests answered."""
        return sum(self.batches)

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def build_backend(folder: Path) -> Path:
    """A backend directory with the stand-in under the name of the ONNX Runtime backend."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler for the stand-in backend")
    place = folder / "backends/onnxruntime"
    place.mkdir(parents=True)
    library = place / "libtriton_onnxruntime.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, str(SOURCE), "-o", str(library)], check=True)
    return place.parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(model: Path, backends: Path, scratch: Path) -> Iterator[tuple[str, StandIn, Path]]:
    """A server on a repository of one model: gRPC address, stand-in, log.

    Raises:
        RuntimeError: the server did not get ready; the message is its log.
    """
    if not BINARY.exists():
        pytest.skip(f"no Triton at {SERVER}; run: make triton-server")
    scratch.mkdir(parents=True, exist_ok=True)
    log, meeting, port = scratch / "log", scratch / "socket", free_port()
    stand_in = StandIn(model, meeting)
    stand_in.start()
    command = [str(BINARY), f"--model-repository={model.parent}", "--allow-http=false"]
    command += [f"--backend-directory={backends}", "--allow-metrics=false"]
    command += ["--grpc-address=127.0.0.1", f"--grpc-port={port}", "--exit-timeout-secs=5"]
    command += ["--exit-on-error=false", "--strict-readiness=false"]
    environment = {**os.environ, "STREAMSEG_STAND_IN": str(meeting)}
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        wait_until_ready(f"127.0.0.1:{port}", server, log)
        yield f"127.0.0.1:{port}", stand_in, log
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        stand_in.close()


def wait_until_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    with InferenceServerClient(address) as client:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if client.is_server_ready():
                    return
            except InferenceServerException:
                pass
            time.sleep(0.1)
    raise RuntimeError(f"exit {server.poll()}: {log.read_text(errors='replace')}")


def reason(address: str) -> str:
    """Why the server's model did not load; empty for one that did."""
    with InferenceServerClient(address) as client:
        (model,) = client.get_model_repository_index().models
    return "" if model.state == "READY" else str(model.reason)


def refusal(model: Path, backends: Path, scratch: Path) -> str:
    """Why a server does not load a model.

    Triton 2.51 sometimes ends with a segmentation fault while it gives up on a model, before it has
    said why; it is asked again then.
    """
    for attempt in range(12):
        try:
            with running(model, backends, scratch / str(attempt)) as (address, _, _):
                return reason(address)
        except RuntimeError as error:
            if not str(error).startswith("exit -11:"):
                raise
    raise AssertionError("the server crashed every time")

"""Names and arguments that are called, in the real libraries: they install without a GPU."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.errors import BackendError
from streamseg.runtime.backends.cuda import open_cuda
from streamseg.runtime.backends.gpu import find_gpu
from streamseg.runtime.backends.tensorrt import TYPES
from tests.runtime.backends import fake_cuda
from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_tensorrt import names_used

ROOT = Path(__file__).resolve().parents[3]
RTX = Path(os.environ.get("STREAMSEG_RTX", ROOT / "build/rtx"))
MISSING = "cuda-bindings is not installed; it comes with the extra dev"


def test_every_call_is_in_the_real_bindings() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason=MISSING)
    # What the backends call and the fake lacks fails every test that runs on the fake.
    calls = [
        name
        for name, member in vars(FakeCuda).items()
        if name.startswith("cuda") and inspect.isfunction(member)
    ]
    assert len(calls) > 25
    for name in calls:
        ours = inspect.signature(getattr(FakeCuda, name)).parameters
        theirs = inspect.signature(getattr(real, name)).parameters
        assert len(ours) == len(theirs) + 1, f"{name} of the fake"
    kinds = ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaMemoryType")
    for kind in (*kinds, "cudaDeviceAttr"):
        for member in getattr(fake_cuda, kind):
            assert int(getattr(getattr(real, kind), member.name)) == member.value, member
    assert real.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
    assert real.cudaEventDisableTiming == FakeCuda.cudaEventDisableTiming
    assert real.cudaHostAllocMapped == FakeCuda.cudaHostAllocMapped
    attributes = real.cudaPointerAttributes()
    assert {"type", "device"} <= set(dir(attributes))
    assert int(real.cudaStream_t(0x1234)) == 0x1234


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_real_bindings_without_a_gpu_are_an_error_of_ours() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason=MISSING)
    with pytest.raises(BackendError, match=r"cudaGetDeviceCount: .*Run: streamseg doctor"):
        open_cuda()


ASK = """
import json, sys
import tensorrt_rtx as trt
wanted = json.loads(sys.argv[1])
missing = [f"{c}.{n}" for c, names in wanted.items() for n in names
           if not hasattr(getattr(trt, c, None), n)]
class Log(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.message = []
    def log(self, severity, text):
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.message.append(text)
log = Log()
runtime = trt.Runtime(log)
runtime.engine_host_code_allowed = False
engine = runtime.deserialize_cuda_engine(b"not an engine" * 100)
creator = trt.get_plugin_registry().get_creator("WindowedSelectiveScan", "1", "streamseg")
names = {kind: getattr(trt.DataType, kind).name for kind in json.loads(sys.argv[2])}
print(json.dumps({"missing": missing, "engine": engine is None, "message": log.message,
                  "creator": creator is None, "names": names,
                  "version": isinstance(trt.__version__, str)}))
"""


@pytest.mark.tensorrt
def test_every_name_is_in_the_real_tensorrt_rtx() -> None:
    if not (RTX / "bin/python").exists():
        pytest.skip(f"no TensorRT-RTX at {RTX}; run: make tensorrt-rtx")
    wanted = names_used(rtx=True)
    done = subprocess.run(
        [str(RTX / "bin/python"), "-c", ASK, json.dumps(wanted), json.dumps(list(TYPES))],
        env={**os.environ, "LD_LIBRARY_PATH": str(RTX / "link")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == []
    assert found["engine"], "damaged bytes give None, not an exception"
    assert "MAGIC_TAG" in found["message"][0]
    assert found["creator"], "an unknown plugin gives None"
    assert found["names"] == {kind: kind for kind in TYPES}
    assert found["version"]


def test_importing_the_runtime_imports_neither_library() -> None:
    check = (
        "import sys, streamseg, streamseg.runtime.stream, streamseg.runtime.backends, "
        "streamseg.runtime.backends.tensorrt\n"
        "print([m for m in ('cuda', 'tensorrt', 'tensorrt_rtx', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

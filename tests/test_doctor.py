from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from streamseg import doctor
from streamseg.doctor import examine
from streamseg.errors import PluginNotFound, SourceError
from streamseg.installation import install_command
from streamseg.plugins import native
from streamseg.readiness import BACKENDS, PURPOSES, Finding, judge
from streamseg.runtime.backends.gpu import Gpu, find_gpu
from streamseg.runtime.sinks import window
from tests.runtime.backends.conftest import MakeMachine, make_cuda, make_machine  # noqa: F401
from tests.runtime.backends.fake_cuda import cudaError_t


def found(subject: str, findings: list[Finding]) -> Finding:
    (entry,) = [entry for entry in findings if entry.subject == subject]
    return entry


def test_onnxruntime_of_this_environment_is_found() -> None:
    import onnxruntime

    entry = found("ONNX Runtime", examine(["ONNX Runtime"]))
    assert entry.ok
    assert entry.found.startswith(onnxruntime.__version__)
    assert "CPU" in entry.found


@pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")  # of PyGObject
def test_everything_missing_has_a_fix() -> None:
    for entry in examine():
        assert entry.ok or entry.fix, entry.subject


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_without_gpu_tensorrt_is_not_ready_and_the_cpu_is() -> None:
    asked = {subject for name in ("cpu", "tensorrt") for subject in PURPOSES[name].subjects}
    readiness = judge(examine(asked), ["cpu", "tensorrt"])
    assert ("GPU",) in readiness.missing["tensorrt"]
    assert readiness.is_ready("cpu")


def test_instruction_set_in_use_is_named_and_a_rejected_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        level = native.load().level
    except PluginNotFound as reason:
        pytest.skip(str(reason))
    entry = found("instruction set", examine(["instruction set"]))
    assert (entry.ok, entry.found) == (True, level)
    reason = "avx512amx: the operating system does not permit tiles"
    monkeypatch.setattr(native.NativeOps, "rejected_level", reason)
    entry = found("instruction set", examine(["instruction set"]))
    assert (entry.ok, entry.found) == (True, f"{level}; not used: {reason}")


def test_instruction_set_that_the_processor_lacks_is_reported() -> None:
    code = """
from streamseg.doctor import examine
from streamseg.readiness import PURPOSES, judge
findings = examine(PURPOSES["cpu"].subjects)
print(next(entry for entry in findings if entry.subject == "instruction set"))
print(judge(findings, ["cpu"]).ready)
"""
    environment = {**os.environ, "STREAMSEG_CPU_LEVEL": "mmx"}
    run = [sys.executable, "-c", code]
    text = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    if "mmx" not in text:
        pytest.skip(text)
    assert "STREAMSEG_CPU_LEVEL: instruction set 'mmx' is not available, expected one of: " in text
    assert "fix='unset STREAMSEG_CPU_LEVEL'" in text
    assert text.endswith("False\n")  # every run fails with it


def test_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpu", lambda: Gpu("Orin", "8.7", "12.6"))
    entry = found("GPU", examine(["GPU"]))
    assert (entry.ok, entry.found) == (True, "Orin, compute 8.7, driver CUDA 12.6")


@pytest.mark.parametrize(
    ("text", "ok", "message"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic", True, "L4T 36.4"),
        ("# R36 (release), REVISION: 3.0, GCID: 1, BOARD: generic", False, "L4T 36.3"),
        ("# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref", False, "L4T 35.4"),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", True, "L4T 38.2"),
        ("something else", False, "unknown: something else"),
    ],
)
def test_jetpack_is_read_from_its_release_file(text: str, ok: bool, message: str) -> None:
    entry = doctor._jetpack(text)
    assert (entry.ok, entry.found) == (ok, message)


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
@pytest.mark.parametrize(("purpose", "code"), [("cpu", 0), ("tensorrt", 1)])
def test_exit_code_reports_readiness(purpose: str, code: int) -> None:
    runner = "from streamseg.cli.main import run; run()"
    command = [sys.executable, "-c", runner, "doctor", "--for", purpose, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["ready"] is (code == 0)


def test_cuda_python_newer_than_the_driver_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    bindings = pytest.importorskip("cuda.bindings", reason="it comes with the extra dev")
    monkeypatch.setattr("streamseg.runtime.backends.cuda.open_cuda", lambda: None)
    monkeypatch.setattr("streamseg.runtime.backends.cuda.prove", lambda _: None)
    major = int(bindings.__version__.split(".")[0])
    for driver, ok in ((f"{major - 1}.6", False), (f"{major}.0", True)):
        monkeypatch.setattr(doctor, "find_gpu", lambda driver=driver: Gpu("Orin", "8.7", driver))
        entry = found("cuda-python", examine(["cuda-python"]))
        assert entry.ok is ok
        assert ok or entry.fix == f"pip install 'cuda-bindings<{major}'"


def test_cuda_python_that_imports_and_fails_is_not_usable(
    monkeypatch: pytest.MonkeyPatch,
    make_machine: MakeMachine,  # noqa: F811
) -> None:
    machine = make_machine()
    sys.modules["cuda.bindings"].__version__ = "12.9.1"  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor, "find_gpu", lambda: Gpu("Orin", "8.7", "12.6"))
    entry = doctor._cuda_python()
    assert (entry.ok, entry.found) == (True, "12.9.1: memory, copies and a CUDA graph work")
    assert machine.cuda.held() == {}
    machine.cuda.fail("cudaMalloc", cudaError_t.cudaErrorInsufficientDriver)
    entry = doctor._cuda_python()
    assert not entry.ok
    assert "12.9.1 does not work here" in entry.found
    assert entry.fix.startswith("install cuda-bindings of CUDA 12.6 or older")


def test_every_need_is_looked_for() -> None:
    board = {"JetPack", "power mode", "GPU clock", "throttling", "environment"}  # of a Jetson
    wanted = {subject for purpose in PURPOSES.values() for subject in purpose.subjects}
    assert wanted - board <= set(doctor._probes())
    assert set(BACKENDS) <= set(PURPOSES)


def test_only_what_was_asked_for_is_looked_at() -> None:
    subjects = [entry.subject for entry in examine(PURPOSES["serve"].subjects)]
    assert subjects == ["Python", "ONNX Runtime", "OpenVINO", "aiohttp", "prometheus-client"]


def test_package_that_does_not_import_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata alone would say that it is installed."""
    (tmp_path / "broken_package.py").write_text("raise OSError('libfoo.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    entry = ("broken_package", "click", "eval")
    monkeypatch.setitem(doctor.PACKAGES, "broken", entry)
    found = doctor._package("broken")
    assert found == Finding("broken", False, "libfoo.so is missing", install_command("eval"))


@pytest.mark.parametrize("toolkit", [True, False])
@pytest.mark.parametrize("display", ["", "there is no display"])
def test_window_is_ready_exactly_where_run_opens_one(
    toolkit: bool, display: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.runtime.sinks.window.has_toolkit", lambda: toolkit)
    monkeypatch.setattr("streamseg.runtime.sinks.window.find_display_problem", lambda: display)
    pygame = Finding("pygame-ce", toolkit, "x")
    readiness = judge([Finding("ONNX Runtime", True, "x"), pygame, doctor._display()], ["window"])
    assert readiness.is_ready("window") is (window.find_window_problem() == "")


def test_gstreamer_that_is_missing_names_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise SourceError("gst: sources need GStreamer (no Gst); run: apt install x")

    monkeypatch.setattr("streamseg.runtime.sources.gstreamer.load_gstreamer", fail)
    entry = doctor._gstreamer()
    assert (entry.ok, entry.found) == (False, "gst: sources need GStreamer (no Gst)")
    assert entry.fix.startswith("apt install python3-gi")


@pytest.mark.parametrize(
    ("line", "ok", "message"),
    [
        ("345 MHz, 1980 MHz, 0x0000000000000001", True, "345 of 1980 MHz"),
        ("1200 MHz, 1980 MHz, 0x0000000000000000", True, "1200 of 1980 MHz"),
        (
            "900 MHz, 1980 MHz, 0x0000000000000024",
            False,
            "900 of 1980 MHz, held down by its power limit, temperature",
        ),
        ("", False, "nvidia-smi does not report it"),
    ],
)
def test_clocks_of_a_desktop_gpu(line: str, ok: bool, message: str) -> None:
    entry = doctor._desktop_clocks(line)
    assert (entry.ok, entry.found) == (ok, message)


def test_over_current_events_of_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HWMON", tmp_path)
    assert doctor._throttling().found == "the board does not report it"
    (tmp_path / "hwmon1").mkdir()
    (tmp_path / "hwmon1/oc1_event_cnt").write_text("0\n")
    (tmp_path / "hwmon1/oc3_event_cnt").write_text("0\n")
    assert doctor._throttling().ok
    (tmp_path / "hwmon1/oc3_event_cnt").write_text("7\n")
    entry = doctor._throttling()
    assert (entry.ok, entry.found) == (False, "over-current events: oc1 0, oc3 7")


def test_board_state_is_what_benchmarks_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpu", lambda: Gpu("RTX 4090", "8.9", "13.0"))
    monkeypatch.setattr(doctor, "_output", lambda *_: "345 MHz, 1980 MHz, 0x04")
    state = doctor.board_state()
    assert state["GPU clock"] == "345 of 1980 MHz, held down by its power limit"
    assert state["GPU"].startswith("RTX 4090")


def test_openvino_is_found_with_its_devices_and_precision() -> None:
    entry = found("OpenVINO", examine(["OpenVINO"]))
    try:
        version = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        assert not entry.ok
        assert entry.fix == install_command("openvino")
        assert not found("OpenVINO extension", examine(["OpenVINO extension"])).ok
        return
    assert entry.ok
    assert entry.found.startswith(f"{version.split('-')[0]} (CPU")
    assert "auto is " in entry.found

"""Checks of this machine, and the commands that fix what is not ready."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from streamseg.errors import BackendError, PluginNotFound, SourceError
from streamseg.installation import install_command, package_command
from streamseg.readiness import Finding
from streamseg.runtime.backends.engine_files import FLAVOURS
from streamseg.runtime.backends.gpu import find_gpu

RELEASE_FILE = Path("/etc/nv_tegra_release")
HWMON = Path("/sys/class/hwmon")
_SMI = (
    "--query-gpu=clocks.sm,clocks.max.sm,clocks_event_reasons.active",
    "--format=csv,noheader",
)
# Of NVML's clock event reasons, those that are throttling and not idleness or a user's setting.
_REASONS = {
    0x04: "its power limit",
    0x08: "a hardware slowdown",
    0x20: "temperature",
    0x40: "temperature (hardware)",
    0x80: "the power brake",
}
# First L4T release of a JetPack with TensorRT 10.3.
OLDEST_L4T = (36, 4)


def examine(subjects: Collection[str] | None = None) -> list[Finding]:
    """Look at this machine; never raises. The GPU is used for one copy, to prove that it works.

    Args:
        subjects: what to look at; None: everything. What other machines have is left out.
    """
    findings = [_python()]
    for subject, look in _probes().items():
        if subjects is None or subject in subjects:
            findings.append(look())
    return findings


def _probes() -> dict[str, Callable[[], Finding]]:
    """Subject -> the function that looks for it, in the order of the report."""
    probes: dict[str, Callable[[], Finding]] = {
        "ONNX Runtime": _onnxruntime,
        "operator library": partial(_library, "operator library", "find_library", opens=True),
        "instruction set": _instruction_set,
        "OpenVINO": _openvino,
        "OpenVINO extension": _openvino_extension,
        "GPU": _gpu,
        "ONNX Runtime's CUDA provider": _cuda_provider,
        "CUDA operators of ONNX Runtime": partial(
            _library, "CUDA operators of ONNX Runtime", "find_ort_cuda_library"
        ),
        "cuda-python": _cuda_python,
        "CUDA toolkit": _nvcc,
        "CUDA library": partial(_library, "CUDA library", "find_cuda_library"),
        "TensorRT": _tensorrt,
        "TensorRT plugins": partial(_library, "TensorRT plugins", "find_tensorrt_library"),
        **{subject: partial(_package, subject) for subject in PACKAGES},
        "display": _display,
        "GStreamer": _gstreamer,
    }
    if RELEASE_FILE.exists():
        text = RELEASE_FILE.read_text(errors="replace")
        probes |= {
            "JetPack": partial(_jetpack, text),
            "power mode": _power_mode,
            "GPU clock": _clocks,
            "throttling": _throttling,
            "environment": _environment,
        }
    elif find_gpu() is not None:
        probes["GPU clock"] = lambda: _desktop_clocks(_output("nvidia-smi", *_SMI))
    return probes


def _python() -> Finding:
    version = platform.python_version()
    return Finding("Python", sys.version_info >= (3, 10), version, "use Python 3.10 or newer")


def board_state() -> dict[str, str]:
    """Power mode, clocks and throttling where the machine reports them, for benchmarks."""
    subjects = ("GPU", "JetPack", "power mode", "GPU clock", "throttling")
    if find_gpu() is None and not RELEASE_FILE.exists():
        return {}
    return {entry.subject: entry.found for entry in examine(subjects) if entry.subject in subjects}


def gpu_memory(process: int) -> int | None:
    """Bytes of GPU memory that a process holds; None where nvidia-smi does not say."""
    text = _output("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader")
    held = re.findall(rf"^{process}, (\d+) MiB$", text, re.MULTILINE)
    return sum(map(int, held)) << 20 if held else None


# Subject -> (module, distribution, extra that installs it).
PACKAGES = {
    "PyTorch": ("torch", "torch", "export"),
    "transformers": ("transformers", "transformers", "export"),
    "ONNX": ("onnx", "onnx", "export"),
    "onnxscript": ("onnxscript", "onnxscript", "export"),
    "accelerate": ("accelerate", "accelerate", "train"),
    "SciPy": ("scipy", "scipy", "train"),
    "matplotlib": ("matplotlib", "matplotlib", "eval"),
    "aiohttp": ("aiohttp", "aiohttp", "serve"),
    "prometheus-client": ("prometheus_client", "prometheus-client", "serve"),
    "pygame-ce": ("pygame", "pygame-ce", "window"),
    "fsspec": ("fsspec", "fsspec", "batch"),
    "pyarrow": ("pyarrow", "pyarrow", "batch"),
    "Ray": ("ray", "ray", "ray"),
    "paho-mqtt": ("paho.mqtt.client", "paho-mqtt", "mqtt"),
}
PARTS = {
    "NumPy": "numpy",
    "OpenCV": "opencv-python-headless",
    "PyAV": "av",
    "ONNX": "onnx",
    "PyTorch": "torch",
    "transformers": "transformers",
    "TensorRT": "tensorrt",
}


def describe_versions() -> Iterator[str]:
    """Versions of the parts that results depend on, one per line; imports nothing large."""
    yield f"Python {platform.python_version()}"
    for finding in (_onnxruntime(), _library("operator library", "find_library")):
        yield f"{finding.subject} {finding.found if finding.ok else 'not installed'}"
    for part, package in PARTS.items():
        yield f"{part} {_version_of(package)}"


def _version_of(package: str) -> str:
    # OpenCV's builds have different names.
    for name in (package, package.removesuffix("-headless")):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _onnxruntime() -> Finding:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        return Finding("ONNX Runtime", False, str(error), install_command("cpu"))
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()
    )
    return Finding("ONNX Runtime", True, f"{runtime.__version__} ({providers})")


def _cuda_provider() -> Finding:
    """From ONNX Runtime's list; whether CUDA and cuDNN load shows when a session is opened."""
    subject = "ONNX Runtime's CUDA provider"
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return Finding(subject, False, "no ONNX Runtime", install_command("cuda"))
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        return Finding(subject, True, "in this build")
    fix = f"pip uninstall onnxruntime, then {install_command('cuda')}; PyPI has none for JetPack 6"
    return Finding(subject, False, "not in this build", fix)


def _cuda_python() -> Finding:
    try:
        bindings = importlib.import_module("cuda.bindings")
        importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        fix = (
            f"{install_command('tensorrt')}, on a Jetson [jetpack6] or [jetpack7]: "
            "cuda-bindings 12.9 for CUDA 12 drivers, 13 for CUDA 13"
        )
        return Finding("cuda-python", False, str(error), fix)
    gpu = find_gpu()
    version = str(bindings.__version__)
    if gpu is not None and int(version.split(".")[0]) > int(gpu.driver.split(".")[0]):
        fix = package_command(f"cuda-bindings<{int(gpu.driver.split('.')[0]) + 1}")
        return Finding("cuda-python", False, f"{version}, the driver has CUDA {gpu.driver}", fix)
    if gpu is None:
        return Finding("cuda-python", True, f"{version}, not tried: no GPU")
    return _try_cuda(version, gpu.driver)


def _try_cuda(version: str, driver: str) -> Finding:
    """Use the GPU briefly: a runtime newer than the driver can be imported, but may fail."""
    cuda = importlib.import_module("streamseg.runtime.backends.cuda")
    try:
        cuda.prove(cuda.open_cuda())
    except BackendError as error:
        fix = f"install cuda-bindings of CUDA {driver} or older, or a newer driver"
        return Finding("cuda-python", False, f"{version} does not work here: {error}", fix)
    return Finding("cuda-python", True, f"{version}: memory, copies and a CUDA graph work")


def _openvino() -> Finding:
    backend = importlib.import_module("streamseg.runtime.backends.openvino")
    products = importlib.import_module("streamseg.runtime.backends.bfloat16")
    try:
        runtime = backend.import_openvino()
        core = backend.shared_core()
        devices = ", ".join(core.available_devices)
        precision, why = backend.choose_precision(
            core, "CPU", "auto", lambda: products.compare_products(core, None)
        )
        if backend.multiplies_bfloat16(core):
            why += "; for INT8 bundles their own steps decide"
    except (BackendError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        return Finding("OpenVINO", False, reason, install_command("openvino"))
    version = backend.release_of(runtime)
    return Finding("OpenVINO", True, f"{version} ({devices}); auto is {precision}: {why}")


def _openvino_extension() -> Finding:
    backend = importlib.import_module("streamseg.runtime.backends.openvino")
    subject = "OpenVINO extension"
    try:
        version = backend.release_of(backend.import_openvino())
    except (BackendError, RuntimeError):
        return Finding(subject, False, "no OpenVINO", install_command("openvino"))
    return _library(subject, "find_openvino_library", version)


def _package(subject: str) -> Finding:
    """A Python package, by importing it."""
    module, distribution, extra = PACKAGES[subject]
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        importlib.import_module(module)
        version = metadata.version(distribution)
    except Exception as error:  # a broken installation may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Finding(subject, False, reason, install_command(extra))
    return Finding(subject, True, version)


def _display() -> Finding:
    window = importlib.import_module("streamseg.runtime.sinks.window")
    if problem := window.find_display_problem():
        fix = "start a desktop session, or watch the page: streamseg serve"
        return Finding("display", False, problem, fix)
    named = [f"{name}={os.environ[name]}" for name in window.DISPLAYS if os.environ.get(name)]
    tried = "" if window.has_toolkit() else "; not tried: pygame-ce is not installed"
    return Finding("display", True, ", ".join(named) + tried)


def _gstreamer() -> Finding:
    gstreamer = importlib.import_module("streamseg.runtime.sources.gstreamer")
    try:
        found = gstreamer.load_gstreamer().version_string()
    except SourceError as error:
        return Finding("GStreamer", False, str(error).partition("; run:")[0], gstreamer.INSTALL)
    return Finding("GStreamer", True, str(found))


def _library(subject: str, finder: str, *arguments: str, opens: bool = False) -> Finding:
    loader = importlib.import_module("streamseg.plugins.loader")
    try:
        path = getattr(loader, finder)(*arguments)
        if opens:
            importlib.import_module("streamseg.plugins.native").NativeOps(path)
    except PluginNotFound as error:
        reason, _, fix = str(error).partition(". ")
        return Finding(subject, False, reason, fix)
    return Finding(subject, True, path.name + _targets(path))


def _instruction_set() -> Finding:
    """The one that the operators use on the CPU; a wrong wish stops every run."""
    subject = "instruction set"
    native = importlib.import_module("streamseg.plugins.native")
    try:
        operators = native.NativeOps(native.find_library())
        level = operators.level
    except PluginNotFound:
        return Finding(subject, True, "not chosen without the operator library")
    except BackendError as error:
        return Finding(subject, False, str(error), "unset STREAMSEG_CPU_LEVEL")
    unused = f"; not used: {operators.rejected_level}" if operators.rejected_level else ""
    return Finding(subject, True, f"{level}{unused}")


def _targets(path: Path) -> str:
    if path.name != "libstreamseg_cuda.so":
        return ""
    device = importlib.import_module("streamseg.plugins.device")
    return f", compute {device.load_cuda(path).targets}"


def _gpu() -> Finding:
    gpu = find_gpu()
    if gpu is None:
        fix = "install NVIDIA's driver, or use the CPU, which needs none"
        return Finding("GPU", False, "no CUDA driver or device", fix)
    return Finding("GPU", True, f"{gpu.name}, compute {gpu.capability}, driver CUDA {gpu.driver}")


def _nvcc() -> Finding:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        fix = "install the CUDA toolkit; on Jetson: sudo apt install nvidia-jetpack"
        return Finding("CUDA toolkit", False, "no nvcc", fix)
    release = re.search(r"release ([\d.]+)", _output(nvcc, "--version"))
    return Finding("CUDA toolkit", True, release[1] if release else nvcc)


def _tensorrt() -> Finding:
    reasons = []
    for flavour in FLAVOURS:
        try:
            module = importlib.import_module(flavour)
        except ImportError as error:
            reasons.append(str(error))
            continue
        version = str(module.__version__)
        if flavour == "tensorrt" and int(version.split(".")[0]) < 10:
            fix = "install JetPack 6.1 or newer, or TensorRT 10"
            return Finding("TensorRT", False, f"{flavour} {version}, expected 10.0 or newer", fix)
        return Finding("TensorRT", True, f"{flavour} {version}")
    fix = (
        "on Jetson: make the venv with --system-site-packages, so that it sees JetPack's tensorrt; "
        f"on a PC: {package_command('tensorrt')}"
    )
    return Finding("TensorRT", False, "; ".join(reasons), fix)


def _jetpack(release: str) -> Finding:
    """From ``# R36 (release), REVISION: 4.0, ...``."""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+)", release)
    if match is None:
        return Finding(
            "JetPack", False, "unknown: " + release[:60].strip(), "flash JetPack 6.1 or newer"
        )
    found = (int(match[1]), int(match[2]))
    fix = "" if found >= OLDEST_L4T else "flash JetPack 6.1 or newer; JetPack 5 has TensorRT 8.5"
    return Finding("JetPack", found >= OLDEST_L4T, f"L4T {found[0]}.{found[1]}", fix)


def _power_mode() -> Finding:
    text = _output("nvpmodel", "-q")
    mode = re.search(r"Power Mode: (\S+)", text)
    if mode is None:
        return Finding("power mode", False, "nvpmodel does not report it", "sudo nvpmodel -q")
    return Finding("power mode", True, mode[1])


def _clocks() -> Finding:
    """Whether the GPU is at its highest clock: timings are only comparable then."""
    for folder in sorted(Path("/sys/class/devfreq").glob("*gpu*")):
        try:
            now = int((folder / "cur_freq").read_text())
            top = int((folder / "max_freq").read_text())
        except (OSError, ValueError):
            continue
        fix = "" if now >= top else "for benchmarks: sudo jetson_clocks"
        return Finding("GPU clock", now >= top, f"{now // 10**6} of {top // 10**6} MHz", fix)
    return Finding("GPU clock", False, "the board does not report it", "sudo jetson_clocks --show")


def _throttling() -> Finding:
    """Over-current events since the board was started (JetPack 6: oc*_event_cnt)."""
    counts = {}
    for file in sorted(HWMON.glob("hwmon*/oc*_event_cnt")):
        try:
            counts[file.name.removesuffix("_event_cnt")] = int(file.read_text())
        except (OSError, ValueError):
            continue
    if not counts:
        return Finding("throttling", True, "the board does not report it")
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    fix = "a stronger power supply, or a lower power mode: sudo nvpmodel -m MODE"
    return Finding("throttling", not any(counts.values()), f"over-current events: {told}", fix)


def _desktop_clocks(line: str) -> Finding:
    """From nvidia-smi's ``345 MHz, 1980 MHz, 0x0000000000000001``."""
    match = re.match(r"(\d+) MHz, (\d+) MHz, (0x[0-9a-fA-F]+)", line)
    if match is None:
        return Finding(
            "GPU clock", False, "nvidia-smi does not report it", "nvidia-smi -q -d CLOCK"
        )
    reasons = int(match[3], 16)
    held = [name for bit, name in _REASONS.items() if reasons & bit]
    told = f"{match[1]} of {match[2]} MHz" + (f", held down by {', '.join(held)}" if held else "")
    return Finding("GPU clock", not held, told, "cool the GPU or raise its power limit")


def _environment() -> Finding:
    """JetPack's TensorRT and OpenCV are packages of the system's Python."""
    if sys.prefix == sys.base_prefix:
        return Finding("environment", True, "the system's Python")
    config = Path(sys.prefix) / "pyvenv.cfg"
    text = config.read_text() if config.exists() else ""
    seen = "include-system-site-packages = true" in text
    fix = "" if seen else "python3 -m venv --system-site-packages VENV, then install again"
    found = "venv that sees JetPack's packages" if seen else "venv without JetPack's packages"
    return Finding("environment", seen, found, fix)


def _output(*command: str) -> str:
    """What a command prints; empty when it cannot run."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "PATH": path},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout

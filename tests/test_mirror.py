"""Tests lie where the code lies, and the fast selection covers every room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_rooms import ROOMS

# Test room -> folder of the code.
FOLDERS = {room: ROOT / room for room in ROOMS} | {
    "cli": ROOT / "src/streamseg/cli",
    "cpp": ROOT / "cpp",
}
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh"}
# Test files that name no module, and why.
SEVERAL = {
    "calibration/test_fused.py": "calibration around fused layers, all modules",
    "calibration/test_given.py": "calibration of a network with given state, all modules",
    "calibration/test_samples.py": "samples/calibrate_cityscapes.py as a process",
    "cli/test_help.py": "the help of every command",
    "cli/test_other_networks.py": "one's own and imported networks in every command",
    "cli/test_run_sources.py": "run with each kind of source",
    "cli/test_run_state.py": "run over time: events, signals, resuming",
    "cpp/test_camera.py": "streamseg-run on an imitated camera",
    "cpp/test_cpp_runtime.py": "the C++ runtime is built and run as a whole",
    "cpp/test_cuda_stand_in.py": "the CUDA backend over a stand-in for the device",
    "cpp/test_families.py": "every family through streamseg-run",
    "cpp/test_installed_library.py": "the installed library from another project",
    "cpp/test_streamseg_ros.py": "ros2/streamseg_ros, which is over the C++ library",
    "evaluation/test_family_tables.py": "tables of benchmarks/ in short",
    "evaluation/test_more_datasets.py": "five readers of datasets by one rule",
    "evaluation/test_own_labels.py": "a bundle scored against its own labels",
    "evaluation/test_temporal_metrics.py": "flicker, boundaries, flow and mVCn by definition",
    "export/test_against_transformers.py": "whole bundles against another library",
    "export/test_checkpoint_docs.py": "the commands of docs/checkpoints.md",
    "export/test_clip_models.py": "four networks against the same fixtures",
    "export/test_device_backends.py": "every family on the fake device",
    "export/test_engines.py": "graphs for TensorRT, builds and engine records",
    "export/test_mamba_reference.py": "the temporal blocks against mamba_ssm",
    "export/test_openvino_bundles.py": "every family and precision in OpenVINO",
    "export/test_own_network_page.py": "the examples of docs/your-own-network.md",
    "export/test_real_triton.py": "repositories in NVIDIA's server",
    "export/test_reference_frames.py": "schedules of three networks",
    "export/test_rtx_builds.py": "every family through TensorRT-RTX",
    "export/test_triton_batches.py": "repositories of bundles for several streams a step",
    "plugins/test_forced_levels.py": "every instruction set in both CPU runtimes",
    "plugins/test_lean_runtimes.py": "the library in real TensorRT runtimes",
    "plugins/test_ort.py": "ort_ops.cpp inside ONNX Runtime",
    "plugins/test_ort_cuda.py": "cuda/ort_ops.cpp on the CPU twin",
    "plugins/test_thread_shortage.py": "all operators without threads",
    "runtime/backends/test_bindings.py": "names that the real libraries must have",
    "runtime/backends/test_device_frames.py": "frames in device memory, across backends",
    "runtime/backends/test_device_rules.py": "each rule of the fake device",
    "runtime/backends/test_overlap.py": "overlapping steps, across backends and the loop",
    "runtime/backends/test_tensorrt_errors.py": "the errors of four TensorRT modules",
    "runtime/bundle/test_manifest_damage.py": "seeded damage to manifests and arrays",
    "runtime/loop/test_containment.py": "benchmarks/containment.py in short",
    "runtime/loop/test_memory.py": "memory of a whole process",
    "runtime/loop/test_soak.py": "benchmarks/soak.py in short",
    "runtime/sources/test_damaged_media.py": "seeded damage to files of every source",
    "runtime/sources/test_damaged_video.py": "H.264 with damaged packets",
    "runtime/sources/test_seek.py": "--start in every container",
    "runtime/test_camera_demo.py": "samples/camera_demo.py as a process",
    "runtime/test_damaged_inputs.py": "seeded damage to lists, addresses, records",
    "runtime/test_results.py": "who owns the arrays of a step",
    "serving/test_damaged_requests.py": "seeded damage to requests",
    "serving/test_hostile_connections.py": "a server under many connections",
    "training/test_devices.py": "every family's tensors on one device, all modules",
    "training/test_launch.py": "the command in several processes",
    "training/test_recipe.py": "samples/street/train.sh",
    "training/test_sample.py": "the demo's checkpoint",
    "web/test_conformance_in_chromium.py": "the browser runtime in Chromium",
    "web/test_families_in_chromium.py": "every family in Chromium",
    "web/test_page_in_chromium.py": "the page in Chromium",
}
FAST = ROOT / "tests" / "fast.txt"


def test_files() -> list[str]:
    """The test files of the rooms, below ``tests``."""
    found = [
        path.relative_to(ROOT / "tests")
        for room in FOLDERS
        for path in (ROOT / "tests" / room).rglob("test_*.py")
    ]
    return sorted(map(str, found))


test_files.__test__ = False  # type: ignore[attr-defined]


def has_module(name: str) -> bool:
    """Whether a test file names a module or folder where it mirrors the room, or that place."""
    path = Path(name)
    stem = path.stem.removeprefix("test_")
    room = FOLDERS[path.parts[0]]
    folder = room.joinpath(*path.parts[1:-1])
    inner = folder if folder.is_dir() else room
    found = [other for other in inner.rglob(f"{stem}*") if "node_modules" not in other.parts]
    return inner.name == stem or any(
        other.stem == stem and (other.suffix in SOURCES or other.is_dir()) for other in found
    )


@pytest.mark.parametrize("name", test_files())
def test_every_file_names_a_module_of_its_room(name: str) -> None:
    if not has_module(name):
        assert name in SEVERAL, f"no module of this name; rename it, or list it in {__name__}"
    else:
        assert name not in SEVERAL, "it names a module: take it off the list"


def test_listed_files_exist() -> None:
    assert set(SEVERAL) <= set(test_files())


def _exists(name: str, test: str = "") -> bool:
    """Whether a test file, or a test in it, is there."""
    path = ROOT / name
    return path.exists() and f"def {test}" in path.read_text(encoding="utf-8")


def test_fast_selection_covers_every_room() -> None:
    chosen = FAST.read_text(encoding="utf-8").split()
    missing = [name for name in chosen if not _exists(*name.split("::"))]
    assert missing == []
    rooms = {Path(name).parts[1] for name in chosen}
    # The C++ runtime is compiled first, which takes minutes.
    assert {*FOLDERS, "conformance"} - {"cpp"} <= rooms

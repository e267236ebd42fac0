"""Builds the native libraries; the top-level folders are packages by the links in src/streamseg.

The metadata is in pyproject.toml. STREAMSEG_NATIVE=0 leaves the native library out, 1 makes the
install fail without it; otherwise it is built where CMake and a C++ compiler are there.
STREAMSEG_CUDA does the same for the CUDA libraries (plugins/cuda), which are otherwise built where
nvcc and an NVIDIA GPU are there; STREAMSEG_CUDA_RELEASE=1 builds them for every supported GPU.
STREAMSEG_OPENVINO does the same for the OpenVINO extension, which is otherwise built where the
Python package openvino is installed already; it may also name the folder of that package.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import ExecError

LIBRARY = "libstreamseg_ops.so"
RECORD = "libstreamseg_ops.json"
OPENVINO_LIBRARY = "libstreamseg_openvino.so"
CUDA_LIBRARIES = ("libstreamseg_cuda.so", "libstreamseg_ort_cuda.so", "libstreamseg_tensorrt.so")

SOURCE = Path("src")


def list_packages() -> list[str]:
    """Every package below ``src``, where links lead to the top-level folders."""
    folders = (
        Path(root) for root, _, files in os.walk(SOURCE, followlinks=True) if "__init__.py" in files
    )
    return sorted(".".join(folder.relative_to(SOURCE).parts) for folder in folders)


def read_version() -> str:
    """The version, without importing the package."""
    text = Path("src/streamseg/_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise SystemExit("src/streamseg/_version.py holds no __version__ line")
    return match.group(1)


class BuildNative(Command):
    """Build the operator library with CMake and record its version and SHA-256 beside it."""

    description = "build the native operator library"
    user_options: ClassVar = [
        ("build-lib=", "b", "folder to put the package into"),
        ("inplace", "i", "put the library into the source tree"),
    ]
    boolean_options: ClassVar = ["inplace"]

    def initialize_options(self) -> None:
        """Set by setuptools afterwards; ``editable_mode`` by its editable install."""
        self.build_lib: str | None = None
        self.inplace = False
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take the folder of the ``build`` command."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Build, or say why not: without the library the lowering serves."""
        choice = os.environ.get("STREAMSEG_NATIVE", "")
        reason = "STREAMSEG_NATIVE=0" if choice == "0" else self.compile()
        if reason is not None:
            if choice == "1":
                raise ExecError(f"STREAMSEG_NATIVE=1, but there is no operator library: {reason}")
            self.warn(f"installing without the operator library: {reason}")
        self.place(reason)

    def compile(self) -> str | None:
        """Run CMake in build/native; the reason when this machine cannot."""
        cmake = shutil.which("cmake")
        if cmake is None:
            return "CMake was not found"
        configure = [cmake, "-S", ".", "-B", "build/native", f"-DSTREAMSEG_VERSION={VERSION}"]
        found = subprocess.run(configure, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            self.warn(found.stdout + found.stderr)
            return "CMake found no working C++17 compiler"
        jobs = str(os.cpu_count() or 1)
        subprocess.run([cmake, "--build", "build/native", "--parallel", jobs], check=True)
        return None

    def place(self, reason: str | None) -> None:
        """Copy the library to where the package looks for it, and write its record."""
        in_tree = self.inplace or self.editable_mode
        folder = Path("plugins") if in_tree else Path(self.build_lib or "") / "streamseg/plugins"
        folder.mkdir(parents=True, exist_ok=True)
        record = {"version": VERSION, "sha256": None, "reason": reason}
        library = folder / LIBRARY
        library.unlink(missing_ok=True)
        if reason is None:
            built = Path("build/native") / LIBRARY
            record["sha256"] = hashlib.sha256(built.read_bytes()).hexdigest()
            # A new file under the old name: a process that has the old one open keeps it.
            shutil.copyfile(built, library)
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def get_source_files(self) -> list[str]:
        """What an sdist must hold to build it."""
        sources = sorted(str(path) for path in Path("plugins/src").iterdir() if path.is_file())
        return ["CMakeLists.txt", *sources]

    def get_outputs(self) -> list[str]:
        """What a wheel holds of it."""
        folder = Path(self.build_lib or "") / "streamseg/plugins"
        source = Path("plugins") if self.editable_mode else folder
        return [str(folder / name) for name in self.outputs() if (source / name).exists()]

    def outputs(self) -> tuple[str, ...]:
        """Names of library and record."""
        return (LIBRARY, RECORD)

    def get_output_mapping(self) -> dict[str, str]:
        """Where an editable install finds it instead."""
        if not self.editable_mode:
            return {}
        return {output: f"plugins/{Path(output).name}" for output in self.get_outputs()}


class BuildOpenVino(BuildNative):
    """Build the operators as an extension of the OpenVINO that is installed, with its record."""

    description = "build the OpenVINO extension"

    def run(self) -> None:
        """Build, or leave out and say why."""
        choice = os.environ.get("STREAMSEG_OPENVINO", "")
        cmake_folder = find_openvino(choice)
        if choice == "0":
            reason: str | None = "STREAMSEG_OPENVINO=0"
        elif cmake_folder is None:
            reason = "OpenVINO was not installed when streamseg was"
        else:
            reason = self.compile_for(cmake_folder)
        if reason is not None and choice not in ("", "0"):
            raise ExecError(f"STREAMSEG_OPENVINO={choice}, but there is no extension: {reason}")
        self.place_for(cmake_folder, reason)

    def compile_for(self, cmake_folder: Path) -> str | None:
        """Run CMake in build/native; the reason when this machine cannot."""
        cmake = shutil.which("cmake")
        if cmake is None:
            return "CMake was not found"
        configure = [cmake, "-S", ".", "-B", "build/native", f"-DSTREAMSEG_VERSION={VERSION}"]
        configure.append(f"-DOpenVINO_DIR={cmake_folder}")
        jobs = ("--parallel", str(os.cpu_count() or 1))
        build_it = [cmake, "--build", "build/native", "--target", "streamseg_openvino", *jobs]
        for step in (configure, build_it):
            found = subprocess.run(step, capture_output=True, text=True, check=False)
            if found.returncode != 0:
                self.warn(found.stdout + found.stderr)
                return "the build failed; see its output above"
        return None

    def place_for(self, cmake_folder: Path | None, reason: str | None) -> None:
        """Copy the library, and record the OpenVINO that it is for."""
        in_tree = self.inplace or self.editable_mode
        folder = Path("plugins") if in_tree else Path(self.build_lib or "") / "streamseg/plugins"
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / OPENVINO_LIBRARY
        library.unlink(missing_ok=True)
        record = {"version": VERSION, "sha256": None, "reason": reason, "openvino": None}
        if reason is None and cmake_folder is not None:
            built = Path("build/native") / OPENVINO_LIBRARY
            record["sha256"] = hashlib.sha256(built.read_bytes()).hexdigest()
            record["openvino"] = read_openvino_version(cmake_folder)
            shutil.copyfile(built, library)
        library.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")

    def get_source_files(self) -> list[str]:
        """What an sdist must hold to build it."""
        return sorted(str(path) for path in Path("plugins/openvino").iterdir() if path.is_file())

    def outputs(self) -> tuple[str, ...]:
        """Names of library and record."""
        return (OPENVINO_LIBRARY, str(Path(OPENVINO_LIBRARY).with_suffix(".json")))


def find_openvino(choice: str) -> Path | None:
    """The folder of OpenVINOConfig.cmake: named, or of the installed Python package.

    pip builds in an environment of its own, whose packages are not those of the one that it
    installs into; sysconfig names the latter's folder.
    """
    named = [Path(choice), Path(choice) / "cmake"] if choice not in ("", "0", "1") else []
    installed = Path(sysconfig.get_path("platlib")) / "openvino" / "cmake"
    for folder in named or [installed]:
        if (folder / "OpenVINOConfig.cmake").is_file():
            return folder.absolute()
    return None


def read_openvino_version(cmake_folder: Path) -> str:
    """The release, such as 2026.4.1, that a folder of CMake files is of."""
    text = (cmake_folder / "OpenVINOConfig-version.cmake").read_text(encoding="utf-8")
    parts = [
        re.search(rf"set\(PACKAGE_VERSION_{part} (\d+)\)", text)
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    if None in parts:
        raise ExecError(f"{cmake_folder}/OpenVINOConfig-version.cmake names no version")
    return ".".join(match.group(1) for match in parts if match is not None)


class BuildCuda(BuildNative):
    """Build the CUDA operators and, where TensorRT's headers are, its plugins, with records."""

    description = "build the CUDA and TensorRT libraries"

    def run(self) -> None:
        """Build, or leave out and say why."""
        choice = os.environ.get("STREAMSEG_CUDA", "")
        reason = self.missing(choice) or self.compile()
        if reason is not None and choice == "1":
            raise ExecError(f"STREAMSEG_CUDA=1, but there is no CUDA library: {reason}")
        self.place(reason)

    def missing(self, choice: str) -> str | None:
        """The reason not to try."""
        if choice == "0":
            return "STREAMSEG_CUDA=0"
        if find_nvcc() is None:
            return "nvcc was not found"
        board = Path("/proc/device-tree/model")
        tegra = board.exists() and b"NVIDIA" in board.read_bytes()
        if choice != "1" and not tegra and not Path("/dev/nvidiactl").exists():
            return "this machine has no NVIDIA GPU; STREAMSEG_CUDA=1 builds it all the same"
        return None

    def compile(self) -> str | None:
        """Run CMake in build/cuda; the reason when this machine cannot."""
        cmake = shutil.which("cmake")
        if cmake is None:
            return "CMake was not found"
        release = "ON" if os.environ.get("STREAMSEG_CUDA_RELEASE") == "1" else "OFF"
        options = [f"-DSTREAMSEG_RELEASE={release}", f"-DCMAKE_CUDA_COMPILER={find_nvcc()}"]
        for name in ("STREAMSEG_CUDA_ARCHITECTURES", "STREAMSEG_TENSORRT_INCLUDE"):
            if name in os.environ:
                options.append(f"-D{name}={os.environ[name]}")
        configure = [cmake, "-S", "plugins/cuda", "-B", "build/cuda", *options]
        jobs = str(os.cpu_count() or 1)
        for step in (configure, [cmake, "--build", "build/cuda", "--parallel", jobs]):
            if subprocess.run(step, check=False).returncode != 0:
                return "the build failed; see its output above"
        return None

    def place(self, reason: str | None) -> None:
        """Copy what was built to where the package looks for it, each with its record."""
        in_tree = self.inplace or self.editable_mode
        folder = Path("plugins") if in_tree else Path(self.build_lib or "") / "streamseg/plugins"
        folder.mkdir(parents=True, exist_ok=True)
        for name in CUDA_LIBRARIES:
            built, library = Path("build/cuda") / name, folder / name
            library.unlink(missing_ok=True)
            record = {"version": VERSION, "sha256": None, "reason": reason}
            if reason is None and built.exists():
                record["sha256"] = hashlib.sha256(built.read_bytes()).hexdigest()
                shutil.copyfile(built, library)
            elif reason is None:
                record["reason"] = "TensorRT's headers (NvInferRuntime.h) were not found"
            library.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")

    def get_source_files(self) -> list[str]:
        """What an sdist must hold to build it."""
        return sorted(str(path) for path in Path("plugins/cuda").iterdir() if path.is_file())

    def outputs(self) -> tuple[str, ...]:
        """Names of libraries and records."""
        return (*CUDA_LIBRARIES, *(str(Path(name).with_suffix(".json")) for name in CUDA_LIBRARIES))


def find_nvcc() -> str | None:
    """Path of nvcc; the toolkit's folder counts also where PATH does not have it, as on Jetson."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


class Build(build):
    """``build`` with the native libraries."""

    sub_commands: ClassVar = [
        *build.sub_commands,
        ("build_native", None),
        ("build_openvino", None),
        ("build_cuda", None),
    ]


class NativeDistribution(Distribution):
    """A distribution that holds machine code, so that all of it goes into one folder."""

    def has_ext_modules(self) -> bool:
        """Whether it depends on the platform."""
        return True


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and any Python 3: the library knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>."""
        return ("py3", "none", super().get_tag()[2])


VERSION = read_version()

setup(
    version=VERSION,
    packages=list_packages(),
    package_dir={"": str(SOURCE)},
    include_package_data=False,
    package_data={
        "streamseg": ["py.typed"],
        "streamseg.export": ["published_tables.json"],
        "streamseg.serving": ["page/*.html", "page/*.css", "page/*.js"],
        "streamseg.web": ["page/*.html", "page/*.css", "dist/*.js", "kernels.wasm"],
    },
    distclass=NativeDistribution,
    cmdclass={
        "build": Build,
        "build_native": BuildNative,
        "build_openvino": BuildOpenVino,
        "build_cuda": BuildCuda,
        "bdist_wheel": PlatformWheel,
    },
)

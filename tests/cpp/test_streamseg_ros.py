"""The ROS 2 package without ROS 2: its segmenter, and its node over a stand-in of rclcpp.

The messages are ROS 2's own headers. rclcpp itself is not available here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import types
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from streamseg._version import __version__
from tests.conformance.write_cases import FOLDER
from tests.conftest import ROOT
from tests.cpp.conftest import REQUIREMENTS, RUNTIME, Build, run

PACKAGE = ROOT / "ros2/streamseg_ros"
MESSAGES = ROOT / "build/ros_messages"
pytestmark = [
    *REQUIREMENTS,
    pytest.mark.skipif(
        not Path("/usr/include/gtest/gtest.h").exists(), reason="no GoogleTest: run make cpp-tools"
    ),
]


@pytest.fixture(scope="module")
def tests_of_package(build: Build) -> Path:
    """Folder of the package's test programs, built over the installed library."""
    prefix, folder = ROOT / "build/cpp-installed", ROOT / "build/ros2"
    run("cmake", "--install", build(), "--prefix", prefix)
    includes = ";".join(str(path) for path in sorted(MESSAGES.glob("*")))
    options = ["-DSTREAMSEG_ROS_NODE=OFF", f"-DCMAKE_PREFIX_PATH={prefix}"]
    options += [f"-DSTREAMSEG_ROS_MESSAGES={includes}", "-DCMAKE_BUILD_TYPE=None"]
    options += ["-DSTREAMSEG_SANITIZE=address,undefined", "-DCMAKE_CXX_FLAGS=-O0"]
    run("cmake", "-S", PACKAGE, "-B", folder, *options)
    run("cmake", "--build", folder, "--parallel", "2")
    return folder


def run_tests(program: Path, name: str) -> str:
    places = {"STREAMSEG_CASE": str(FOLDER / name), "STREAMSEG_ONNXRUNTIME": str(RUNTIME)}
    # What ONNX Runtime itself keeps until the process ends is not ours.
    environment = {**os.environ, **places, "ASAN_OPTIONS": "detect_leaks=0"}
    return run(program, env=environment).stdout.decode()


@pytest.mark.parametrize("name", ["carry", "mixed"])
def test_segmenter_passes_its_tests(tests_of_package: Path, name: str) -> None:
    assert "PASSED  ] 7 tests" in run_tests(tests_of_package / "segmenter_test", name)


@pytest.mark.skipif(not MESSAGES.is_dir(), reason="no messages of ROS 2: run make ros-messages")
def test_node_passes_its_tests_over_a_stand_in_of_rclcpp(tests_of_package: Path) -> None:
    assert "PASSED  ] 4 tests" in run_tests(tests_of_package / "node_test", "carry")


def node_parameters() -> set[str]:
    text = (PACKAGE / "src/segmentation_node.cpp").read_text()
    return set(re.findall(r'fixed\("(\w+)"', text)) - {"class_names"}


def test_launch_file_sets_every_parameter_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls, recorded; the launch system is not available here."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def recorder(name: str) -> Any:
        def record(*arguments: Any, **named: Any) -> str:
            calls.append((name, arguments, named))
            return str(arguments[0]) if arguments else name

        return record

    for module, names in {
        "launch": ["LaunchDescription"],
        "launch.actions": ["DeclareLaunchArgument"],
        "launch.substitutions": ["LaunchConfiguration"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
        "launch_ros.parameter_descriptions": ["ParameterValue"],
    }.items():
        made = types.ModuleType(module)
        made.__dict__.update({name: recorder(name) for name in names})
        monkeypatch.setitem(sys.modules, module, made)
    path = PACKAGE / "launch/segment.launch.py"
    spec = importlib.util.spec_from_file_location("segment_launch", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.generate_launch_description()
    (node,) = (named for name, _, named in calls if name == "Node")
    declared = {arguments[0] for name, arguments, _ in calls if name == "DeclareLaunchArgument"}
    (parameters,) = node["parameters"]
    assert set(parameters) == node_parameters()
    assert declared == node_parameters() | {"image"}
    cmake = (PACKAGE / "CMakeLists.txt").read_text()
    assert f"EXECUTABLE {node['executable']})" in cmake


def test_package_lists_what_its_build_finds() -> None:
    package = ElementTree.parse(PACKAGE / "package.xml").getroot()
    cmake = (PACKAGE / "CMakeLists.txt").read_text()
    found = set(re.findall(r"find_package\((\w+)", cmake)) - {"streamseg", "GTest"}
    listed = {
        entry.text
        for kind in ("depend", "buildtool_depend", "test_depend")
        for entry in package.findall(kind)
    }
    assert listed == found
    assert package.findtext("version") == re.match(r"[\d.]+", __version__).group()  # type: ignore[union-attr]

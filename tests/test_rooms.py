"""The structure of the package: floors, circles, names that occur once, sizes of rooms."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the ground up; a room imports only from rooms below it.
FLOORS = (
    ("counting", "errors", "_version", "lazy_names"),
    ("installation",),
    ("files", "readiness", "redaction", "signals"),
    ("destinations",),
    ("option_fields",),
    ("plugins", "scenes"),
    ("runtime",),
    ("export",),
    ("memory",),
    ("evaluation",),
    ("calibration", "training"),
    ("serving", "batch", "web"),
    ("doctor", ""),
    ("cli",),
)
ROOMS = ("batch", "calibration", "evaluation", "export", "plugins", "runtime", "scenes")
ROOMS += ("serving", "training", "web")
# Folders whose files follow one axis, so that a name in them may occur elsewhere too.
AXES = ("cli", "models", "formats", "backends", "datasets")
LARGEST_SHARE = 0.30
NOT_NOUNS = re.compile(
    "make|get|do|read|write|open|find|load|save|apply|convert|create|parse|render|measure|compare|"
    "evaluate|calibrate|decode|encode|prepare|compute|collect|choose|describe|"
    "utils|helpers|common|misc|base|manager"
)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below ``streamseg``."""
    front = ROOT / "src/streamseg"
    found = {_name(path, front): path for path in front.rglob("*.py")}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if "node_modules" not in path.parts:
                found[f"{room}.{_name(path, ROOT / room)}".rstrip(".")] = path
    return found


def _name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules that it imports, also inside functions and for types."""
    return {name: set(_imported(name, path)) for name, path in modules().items()}


def _imported(name: str, path: Path) -> list[str]:
    known = modules()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            if base is not None:
                inner = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
                found += [module if module in known else base for module in inner]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "streamseg"]
            found += [module.partition(".")[2] for module in names]
    return [module for module in found if module in known and module != name]


def _base(node: ast.ImportFrom, package: str) -> str | None:
    if node.level:
        parts = package.split(".")
        above = parts[: len(parts) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])
    root, _, rest = (node.module or "").partition(".")
    return rest if root == "streamseg" else None


def _room(module: str) -> str:
    return module.split(".")[0]


def test_modules_import_only_from_their_own_floor_and_below() -> None:
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    upward = [
        f"{name} -> {other}"
        for name, others in imports().items()
        for other in others
        if _room(other) != _room(name)
        # The front door names what it offers; nothing runs until somebody asks.
        if name != ""
        if floor[_room(other)] >= floor[_room(name)]
    ]
    assert upward == []


def test_modules_have_no_import_circle() -> None:
    graph = {
        # A package that names its own modules is not a circle.
        name: {other for other in others if not name.startswith(f"{other}.")}
        for name, others in imports().items()
        if name != ""
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_runtime_needs_neither_torch_nor_onnx() -> None:
    heavy = {"torch", "onnx", "transformers"}
    found = []
    for name, path in modules().items():
        if _room(name) not in ("runtime", "plugins", "scenes", "serving", "batch"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [f"{name}: {a.name}" for a in node.names if a.name.split(".")[0] in heavy]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in heavy:
                found.append(f"{name}: {node.module}")
    assert found == []


def test_file_names_occur_once() -> None:
    places = defaultdict(list)
    for name, path in modules().items():
        if path.name != "__init__.py":
            places[path.stem].append(name)
    repeated = {}
    for stem, names in places.items():
        outside = [name for name in names if not set(name.split(".")[:-1]) & set(AXES)]
        if len(outside) > 1:
            repeated[stem] = names
    assert repeated == {}


def test_modules_are_nouns() -> None:
    """The command line's modules are called like their commands."""
    last_words = {
        name: name.rpartition(".")[2].split("_")[-1]
        for name in modules()
        if not name.startswith("cli.")
    }
    assert {name: word for name, word in last_words.items() if NOT_NOUNS.fullmatch(word)} == {}


def test_public_class_names_occur_once() -> None:
    places = defaultdict(list)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {key: names for key, names in places.items() if len(names) > 1} == {}


def test_no_room_holds_more_than_its_share() -> None:
    lines: Counter[str] = Counter()
    suffixes = {".py", ".h", ".cpp", ".cu", ".cuh", ".js", ".ts", ".html", ".css"}
    for room in (*ROOMS, "src/streamseg"):
        folder = ROOT / room
        for path in folder.rglob("*"):
            built = {"dist", "node_modules"} & set(path.parts)
            if path.suffix in suffixes and path.is_file() and not built:
                lines[room] += len(path.read_text(encoding="utf-8").splitlines())
    room, count = lines.most_common(1)[0]
    assert count / lines.total() <= LARGEST_SHARE, (room, count, lines.total())


def test_python_files_have_fewer_than_500_lines() -> None:
    folders = (*ROOMS, "src", "tests", "benchmarks", "samples")
    lines = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "node_modules" not in path.parts
    }
    assert {name: count for name, count in lines.items() if count >= 500} == {}

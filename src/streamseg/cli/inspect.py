"""``streamseg inspect``: what a bundle holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.counting import count_of
from streamseg.errors import PluginNotFound
from streamseg.plugins.loader import find_library, find_openvino_library
from streamseg.redaction import printable
from streamseg.runtime.bundle.claims import PARITY_MEANING, describe_assumed

if TYPE_CHECKING:
    from rich.table import Table

    from streamseg.runtime.bundle.bundle import Bundle
    from streamseg.runtime.bundle.manifest import Manifest


@subcommand("inspect", examples=("inspect street/", "inspect street-int8/ -v"))
@click.argument("bundle", type=PLACE)
def command(bundle: Path) -> None:
    """Verify BUNDLE and show its model, sizes, state table, graphs, schedule and parity."""
    from rich.console import Console

    from streamseg.runtime.bundle.bundle import read_bundle

    opened = read_bundle(bundle)
    manifest = opened.manifest
    console = Console(highlight=False, soft_wrap=True)
    for line in describe(opened):
        console.print(printable(line), markup=False)
    console.print(state_table(manifest))
    console.print(graph_table(opened))
    for line in describe_schedule(manifest):
        console.print(printable(line), markup=False)
    names = ", ".join(f"{entry.id} {entry.name}" for entry in manifest.classes)
    console.print(printable(f"classes ({len(manifest.classes)}): {names}"), markup=False)


def describe(bundle: Bundle) -> Iterator[str]:
    """Lines on model, frame, weights, parity and origin."""
    manifest, frame = bundle.manifest, bundle.manifest.frame
    yield f"{bundle.path}: verified, {count_of(len(manifest.files), 'file')} as the manifest says"
    yield f"model: {join_pairs(manifest.model)}"
    yield from describe_assumed(manifest.assumed)
    yield (
        f"frame: uint8 [1, {frame.height}, {frame.width}, 3] {frame.color.upper()}, "
        f"{frame.resize}, mean {list(frame.mean)}, std {list(frame.std)}"
    )
    yield f"weights: {join_pairs(manifest.weights)}"
    yield f"precision: {join_pairs(manifest.precision or {'layers': 'float32'})}"
    yield f"parity: {join_pairs(manifest.parity)}"
    yield f"  {PARITY_MEANING}"
    yield f"made by: {join_pairs(manifest.made_by)}"
    yield f"operators on this machine: {describe_operators()}"


def describe_operators() -> str:
    """Whether the native operators are here; if not, why, and what to do about it."""
    try:
        found = f"native, {find_library().name}, version and SHA-256 as built"
    except PluginNotFound as error:
        found = f"lowering to standard ops; {error}"
    return found + describe_openvino()


def describe_openvino() -> str:
    """The same for OpenVINO, where it is installed."""
    try:
        version = metadata.version("openvino")
        return f"; {find_openvino_library(version).name} for OpenVINO {version}"
    except metadata.PackageNotFoundError:
        return ""
    except PluginNotFound as error:
        return f"; in OpenVINO the lowering: {error}"


def join_pairs(entries: Mapping[str, Any]) -> str:
    """``name value`` of every entry that says something, in one line."""
    shown = (f"{name} {value}" for name, value in entries.items() if value not in (None, [], {}))
    return ", ".join(shown) or "not stated"


def state_table(manifest: Manifest) -> Table:
    """The state table with bytes: of the state, and of the buffers that the runtime makes."""
    from rich.table import Table

    from streamseg.runtime.bundle.state import state_bytes

    table = Table(title="state", title_justify="left", show_footer=bool(manifest.state))
    total, held = state_bytes(manifest.state), 0
    for spec in manifest.state:
        held += spec.nbytes // spec.slots * spec.buffers
    footers = ("total", "", "", "", f"{total:,}", f"{held:,}")
    names = ("name", "shape", "dtype", "kind", "bytes", "with buffers")
    for name, footer in zip(names, footers, strict=True):
        right = name in ("bytes", "with buffers")
        table.add_column(name, footer, justify="right" if right else "left", overflow="fold")
    for spec in manifest.state:
        kind = f"ring of {spec.slots}" if spec.kind == "ring" else spec.kind
        buffers = spec.nbytes // spec.slots * spec.buffers
        row = (spec.name, str(list(spec.shape)), spec.dtype, kind)
        table.add_row(*row, f"{spec.nbytes:,}", f"{buffers:,}")
    if not manifest.state:
        table.caption = "no state: frames are independent"
    return table


def graph_table(bundle: Bundle) -> Table:
    """Graphs with their file, size, and how many states they read and write."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="graphs", title_justify="left")
    for name in ("name", "file", "bytes", "reads", "writes", "outputs"):
        table.add_column(name, justify="right" if name in ("bytes", "reads", "writes") else "left")
    for name, graph in bundle.manifest.graphs.items():
        size, outputs = f"{len(bundle.graphs[name]):,}", ", ".join(graph.outputs)
        counts = (str(len(graph.reads)), str(len(graph.writes)))
        table.add_row(name, Text(printable(graph.file)), size, *counts, outputs)
    return table


def describe_schedule(manifest: Manifest) -> Iterator[str]:
    """One line a row."""
    for row in manifest.schedule:
        often = "every step" if row.every == 1 else f"every {count_of(row.every, 'step')}"
        ages = "".join(f", {name} at ages {list(ages)}" for name, ages in row.ages.items())
        yield f"schedule: from step {row.start}, {often}: {row.graph}{ages}"

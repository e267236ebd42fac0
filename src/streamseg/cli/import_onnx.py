"""``streamseg import``: an ONNX graph with state, made elsewhere, in; a bundle out."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import OutputType
from streamseg.counting import count_of
from streamseg.destinations import FOLDER
from streamseg.errors import ExportError
from streamseg.export.import_options import ImportOptions
from streamseg.installation import install_command
from streamseg.runtime.bundle.bundle import check_target
from streamseg.runtime.bundle.claims import describe_parity


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in found:
            raise click.UsageError(f"{option} {text}: expected NAME=VALUE, each name once")
        found[name] = value
    return found


def _numbers(texts: tuple[str, ...], option: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in _pairs(texts, option).items()}
    except ValueError:
        raise click.UsageError(f"{option}: expected NAME=NUMBER") from None


@subcommand(
    "import",
    examples=(
        "import rvm.onnx --size 288x512 --frame src:NCHW:float32:0..1 --output pha:alpha -o rvm/",
        "import net.onnx --size 256x512 --frame image:NCHW:float32:imagenet --output out:logits "
        "--state h_in=h_out -o net/",
    ),
)
@click.argument("graph", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@grouped("-o", "--out", required=True, type=OutputType(FOLDER), help="Bundle folder to write.")
@dataclass_options(ImportOptions, "options", "Graph")
def command(graph: Path, out: Path, options: ImportOptions) -> None:
    """Import GRAPH, an ONNX file whose state goes in and out as tensors, as a bundle.

    Without --state, inputs and outputs are paired by their names: x.in and x.out, past_x and
    present_x, x_in and x_out, r1i and r1o. See docs/imported-graphs.md.
    """
    check_target(out)
    try:
        from streamseg.export.import_spec import ImportSpec, match_states, read_frame, read_output
        from streamseg.export.onnx_import import graph_inputs, import_onnx, load_graph
    except ImportError as error:
        raise ExportError(
            f"import needs onnx and ONNX Runtime ({error}). Run: {install_command('export', 'cpu')}"
        ) from None
    states = _pairs(options.state, "--state")
    constants = _numbers(options.constant, "--constant")
    source = read_frame(options.frame)
    if not states:
        model = load_graph(graph)
        names = [n for n in graph_inputs(model) if n not in (source.name, *constants)]
        states = match_states(names, [entry.name for entry in model.graph.output])
    spec = ImportSpec(
        source,
        read_output(options.output),
        states,
        _numbers(options.initial, "--initial"),
        constants,
        {name: int(value) for name, value in _numbers(options.dim, "--dim").items()},
        options.class_names,
    )
    with show_phases(f"importing {graph}"):
        manifest = import_onnx(
            graph,
            out,
            spec,
            size=options.size,
            logits=options.logits,
            license=options.license or "unknown",
        )
    click.echo(
        f"{out}: {count_of(len(manifest.classes), 'class')}, "
        f"state {sum(s.nbytes for s in manifest.state):,} bytes: "
        f"{', '.join(s.name for s in manifest.state) or 'none'}"
    )
    click.echo(f"  parity {describe_parity(manifest.parity)}")
    click.echo(f"  next: streamseg run {out} VIDEO -o overlay.mp4")

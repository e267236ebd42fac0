"""``streamseg import``: an ONNX graph with state, made elsewhere, in; a bundle out."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.dataclass_options import grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, SIZE
from streamseg.errors import ExportError
from streamseg.runtime.bundle.bundle import check_target
from streamseg.runtime.bundle.claims import describe_parity

HINT = "import needs onnx and ONNX Runtime ({}). Run: pip install 'streamseg[export,cpu]'"


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
@grouped("-o", "--out", required=True, type=PLACE, help="Bundle folder to write.")
@grouped("--size", required=True, type=SIZE, help="Frame size of the model.")
@grouped(
    "--frame",
    required=True,
    metavar="NAME:LAYOUT:TYPE:RANGE",
    help="Input of the frame, e.g. src:NCHW:float32:0..1, or ...:imagenet; :bgr may follow.",
)
@grouped(
    "--output",
    required=True,
    metavar="NAME:KIND",
    help="Output that gives the labels: NAME:logits, NAME:labels, or NAME:alpha[:THRESHOLD].",
)
@grouped(
    "--state",
    multiple=True,
    metavar="INPUT=OUTPUT",
    group="Graph",
    help="State carried from frame to frame; may be repeated.",
)
@grouped(
    "--initial",
    multiple=True,
    metavar="INPUT=NUMBER",
    group="Graph",
    help="Initial value of a state other than zero; may be repeated.",
)
@grouped(
    "--constant",
    multiple=True,
    metavar="INPUT=NUMBER",
    group="Graph",
    help="Value of an input that never changes; may be repeated.",
)
@grouped(
    "--dim",
    multiple=True,
    metavar="NAME=EXTENT",
    group="Graph",
    help="Size of a named dimension; may be repeated.",
)
@grouped(
    "--classes",
    default="",
    metavar="A,B,...",
    group="Bundle",
    help="Names of the classes.",
    show_default="numbers",
)
@grouped(
    "--license",
    "license_",
    default="unknown",
    show_default=True,
    group="Bundle",
    help="License of the weights.",
)
@grouped("--logits", is_flag=True, group="Bundle", help="Also output float32 logits.")
def command(
    graph: Path,
    out: Path,
    size: tuple[int, int],
    frame: str,
    output: str,
    state: tuple[str, ...],
    initial: tuple[str, ...],
    constant: tuple[str, ...],
    dim: tuple[str, ...],
    classes: str,
    license_: str,
    logits: bool,
) -> None:
    """Import GRAPH, an ONNX file whose state goes in and out as tensors, as a bundle.

    Without --state, inputs and outputs are paired by their names: x.in and x.out, past_x and
    present_x, x_in and x_out, r1i and r1o. See docs/imported-graphs.md.
    """
    check_target(out)
    try:
        from streamseg.export.import_spec import ImportSpec, match_states, read_frame, read_output
        from streamseg.export.onnx_import import graph_inputs, import_onnx, load_graph
    except ImportError as error:
        raise ExportError(HINT.format(error)) from None
    states = _pairs(state, "--state")
    constants = _numbers(constant, "--constant")
    source = read_frame(frame)
    if not states:
        model = load_graph(graph)
        names = [n for n in graph_inputs(model) if n not in (source.name, *constants)]
        states = match_states(names, [entry.name for entry in model.graph.output])
    spec = ImportSpec(
        source,
        read_output(output),
        states,
        _numbers(initial, "--initial"),
        constants,
        {name: int(value) for name, value in _numbers(dim, "--dim").items()},
        tuple(filter(None, (name.strip() for name in classes.split(",")))),
    )
    with show_phases(f"importing {graph}"):
        manifest = import_onnx(graph, out, spec, size=size, logits=logits, license_=license_)
    click.echo(
        f"{out}: {len(manifest.classes)} classes, state {sum(s.nbytes for s in manifest.state):,} "
        f"bytes: {', '.join(s.name for s in manifest.state) or 'none'}"
    )
    click.echo(f"  parity {describe_parity(manifest.parity)}")
    click.echo(f"  next: streamseg run {out} VIDEO -o overlay.mp4")

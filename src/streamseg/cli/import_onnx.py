"""``streamseg import``: an ONNX graph with state, made elsewhere, in; a bundle out."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.options import SIZE
from streamseg.errors import ExportError
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


@click.command("import")
@click.argument("graph", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Bundle folder.")
@click.option("--size", required=True, type=SIZE, help="Frame size that the graph runs at, HxW.")
@click.option(
    "--frame",
    required=True,
    metavar="NAME:LAYOUT:TYPE:RANGE",
    help="Input of the frame, e.g. src:NCHW:float32:0..1, or ...:imagenet; :bgr may follow.",
)
@click.option(
    "--output",
    required=True,
    metavar="NAME:KIND",
    help="What labels are made from: NAME:logits, NAME:labels, or NAME:alpha[:THRESHOLD].",
)
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="Carried from frame to frame.")
@click.option("--initial", multiple=True, metavar="INPUT=NUMBER", help="Of a state, if not zero.")
@click.option("--constant", multiple=True, metavar="INPUT=NUMBER", help="Input that never changes.")
@click.option("--dim", multiple=True, metavar="NAME=EXTENT", help="Size of a named dimension.")
@click.option("--classes", default="", metavar="A,B,...", help="Names; numbered by default.")
@click.option("--license", "license_", default="unknown", help="Of the weights.")
@click.option("--logits", is_flag=True, help="Also output float32 logits.")
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
    """Turn GRAPH, an ONNX file whose state goes in and out as tensors, into a bundle.

    Without --state, inputs and outputs are paired by their names: x.in and x.out, past_x and
    present_x, x_in and x_out, r1i and r1o. See docs/imported-graphs.md.
    """
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
    manifest = import_onnx(graph, out, spec, size=size, logits=logits, license_=license_)
    click.echo(
        f"{out}: {len(manifest.classes)} classes, state {sum(s.nbytes for s in manifest.state):,} "
        f"bytes: {', '.join(s.name for s in manifest.state) or 'none'}"
    )
    click.echo(f"  parity {describe_parity(manifest.parity)}")
    click.echo(f"  next: streamseg run {out} --source VIDEO --out overlay.mp4")

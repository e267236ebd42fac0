"""``streamseg export``: checkpoint in, bundle out."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.options import SIZE
from streamseg.cli.setting_options import setting_options
from streamseg.errors import ExportError
from streamseg.runtime.bundle.claims import PARITY_MEANING, describe_assumed, describe_parity

TORCH_HINT = "export needs PyTorch and transformers ({}). Run: pip install 'streamseg[export,cpu]'"


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Bundle folder.")
@click.option("--size", required=True, type=SIZE, help="Frame size that the model runs at, HxW.")
@setting_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16: half the size, for GPUs; state, norms and softmax stay float32.",
)
@click.option("--logits", is_flag=True, help="Also output float32 logits.")
@click.option("--letterbox", is_flag=True, help="Have the runtime keep the aspect of frames.")
def command(
    checkpoint: Path,
    out: Path,
    size: tuple[int, int],
    settings: dict[str, str],
    precision: str,
    logits: bool,
    letterbox: bool,
) -> None:
    """Turn CHECKPOINT (.pth or .safetensors, published key names) into a bundle."""
    try:
        from streamseg.export import export_bundle, load_checkpoint
    except ImportError as error:
        raise ExportError(TORCH_HINT.format(error)) from None
    model = load_checkpoint(checkpoint, settings=settings)
    description = model.describe()
    click.echo(
        f"{checkpoint}: {description['family']} {description['encoder']}, "
        f"{model.num_classes} classes, {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    for line in describe_assumed(model.assumed):
        click.echo(f"  {line}")
    if model.origin.ignored:
        click.echo(f"  ignored {len(model.origin.ignored)} keys, e.g. {model.origin.ignored[0]}")
    resize = "letterbox" if letterbox else "stretch"
    report = export_bundle(model, out, size=size, logits=logits, resize=resize, precision=precision)
    click.echo(
        f"{report.path}: {precision}, {report.nodes} nodes, {report.bytes / 1e6:.1f} MB, "
        f"state {report.state_bytes:,} bytes, {report.seconds:.1f} s"
    )
    click.echo(f"  parity {describe_parity(report.parity)}")
    click.echo(f"  {PARITY_MEANING}")
    click.echo(f"  next: streamseg run {report.path} --source VIDEO --out overlay.mp4")

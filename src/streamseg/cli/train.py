"""``streamseg train``: clips of a labelled dataset in, a checkpoint out."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import Any

import click

from streamseg.cli.options import SIZE, classes_by_option
from streamseg.cli.setting_options import setting_options
from streamseg.errors import TrainingError

FOLDER = click.Path(path_type=Path)
PACKAGES = ("torch", "transformers", "safetensors", "accelerate", "matplotlib")


def read_offsets(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """``"-9,-6,-3,0"`` to numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected numbers such as -9,-6,-3,0") from None


def read_range(_context: click.Context, _option: click.Parameter, text: str) -> tuple[float, float]:
    """``"0.5-2"`` to numbers."""
    low, dash, high = text.partition("-")
    try:
        return float(low), float(high if dash else low)
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected LOW-HIGH such as 0.5-2") from None


def require_packages() -> None:
    """Raise TrainingError, with the install line, where a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"training needs {', '.join(missing)}: pip install 'streamseg[export,train]'"
        )


@click.command("train")
@click.option("--dataset", required=True, metavar="NAME:ROOT", help="As for streamseg eval.")
@click.option("--split", default="train", show_default=True)
@click.option("-o", "--out", required=True, type=FOLDER, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--model", default="tv3s", show_default=True, help="tv3s, or segformer (no state).")
@click.option(
    "--encoder", default="mit_b1", show_default=True, help="mit_b0, swin_t, dinov3_vits16, ..."
)
@click.option("--embed-dim", default=256, show_default=True, help="Channels of decoder and blocks.")
@click.option("--layers", default=8, show_default=True, help="Temporal layers.")
@click.option("--expand", default=2, show_default=True, help="d_inner / embed-dim.")
@click.option("--states", default=16, show_default=True, help="States per channel.")
@setting_options
@classes_by_option
@click.option("--drop-path", default=0.1, show_default=True)
@click.option("--encoder-weights", type=FOLDER, help="ImageNet weights of the encoder.")
@click.option("--init", type=FOLDER, help="Checkpoint to start from (SegFormer or TV3S).")
@click.option("--offsets", default="-9,-6,-3,0", show_default=True, callback=read_offsets)
@click.option("--batch", default=8, show_default=True, help="Clips a step, over all processes.")
@click.option("--crop", default="480x480", show_default=True, type=SIZE)
@click.option("--scale", default="0.5-2", show_default=True, callback=read_range)
@click.option("--flip", default=0.5, show_default=True, help="Chance of a mirrored clip.")
@click.option("--photometric/--no-photometric", default=True)
@click.option("--ignore-index", default=255, show_default=True)
@click.option("--class-weights", help="'log': 1/ln(1.1 + frequency), or a JSON file of numbers.")
@click.option("--steps", default=160_000, show_default=True)
@click.option(
    "--stop-at",
    type=click.IntRange(min=1),
    help="End at this step of the schedule, with weights; --resume can go on from there.",
)
@click.option("--lr", default=6e-5, show_default=True, help="Of the encoder.")
@click.option("--head-lr", default=10.0, show_default=True, help="Of the head, times --lr.")
@click.option("--weight-decay", default=0.01, show_default=True)
@click.option("--warmup", default=1500, show_default=True, help="Steps.")
@click.option("--power", default=1.0, show_default=True, help="Of the polynomial decay.")
@click.option("--clip-norm", default=0.0, show_default=True, help="Largest gradient norm; 0: any.")
@click.option("--auxiliary", default=0.5, show_default=True, help="Weight of the auxiliary loss.")
@click.option("--supervise", default="last", show_default=True, help="'last' frame, or 'all'.")
@click.option("--ema", default=0.0, show_default=True, help="Decay of averaged weights; 0: none.")
@click.option("--precision", default="float32", show_default=True, help="float32, bf16 or fp16.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of PyTorch.")
@click.option("--workers", default=0, show_default=True, help="Processes that read ahead.")
@click.option("--cache", type=FOLDER, help="Folder to keep decoded frames in.")
@click.option("--save-every", default=500, show_default=True, type=click.IntRange(min=1))
@click.option("--log-every", default=10, show_default=True, type=click.IntRange(min=1))
@click.option("--license", "license_", help="Of the weights; follows from the data's.")
@click.option("--half", is_flag=True, help="Save the weights as float16.")
@click.option(
    "--silence-absent",
    is_flag=True,
    help="Save weights that never give a class which no label of the dataset shows.",
)
def command(**given: Any) -> int:
    """Train a network on clips of a labelled dataset.

    Writes --out/weights.safetensors, which export, eval and run take. Stopped by Ctrl-C or SIGTERM
    it saves a checkpoint; --resume then goes on to the same weights. For several GPUs put
    `accelerate launch --multi_gpu -m streamseg.cli.main` before the same arguments.
    """
    require_packages()
    from streamseg.training.running import start_run

    report = start_run(given, command_line=sys.argv[1:])
    if report.signal is not None:
        name = signal.Signals(report.signal).name
        click.echo(f"stopped by {name} after step {report.step}; --resume goes on", err=True)
        return 128 + report.signal
    if report.weights is not None:
        click.echo(f"wrote {report.weights} after {report.step} steps")
    return 0

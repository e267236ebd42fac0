"""``streamseg train``: clips of a labelled dataset in, a checkpoint out."""

from __future__ import annotations

import importlib.util
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.export import require_checkpoint
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import SETTINGS
from streamseg.cli.setting_options import setting_options
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.counting import count_of
from streamseg.destinations import FOLDER
from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import DatasetOptions
from streamseg.installation import install_command
from streamseg.training.config import (
    ClipConfig,
    NetworkConfig,
    RunOptions,
    TrainConfig,
    TrainingData,
)

PACKAGES = ("torch", "transformers", "safetensors", "accelerate", "matplotlib", "scipy")


def require_packages() -> None:
    """Raise TrainingError, with the install line, where a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"training needs {', '.join(missing)}. Run: {install_command('export', 'train')}"
        )


@subcommand(
    "train",
    examples=(
        "train --dataset camvid:CamVid --encoder mit_b0 --steps 20000 -o runs/camvid",
        "train --dataset camvid:CamVid --encoder mit_b0 --steps 20000 --resume runs/camvid",
    ),
    removed=SETTINGS,
)
@dataclass_options(DatasetOptions, "dataset", "Data", defaults={"split": "train"})
@grouped("-o", "--out", type=OutputType(FOLDER), help="Folder of a new run.")
@grouped(
    "--resume",
    type=PLACE,
    metavar="FOLDER",
    help="Resume the run in FOLDER, with the same options, instead of --out.",
)
@dataclass_options(NetworkConfig, "network", "Network")
@setting_options("Network")
@dataclass_options(TrainingData, "data", "Data", without=("threads",))
@dataclass_options(ClipConfig, "clips", "Clips")
@dataclass_options(TrainConfig, "config", "Optimisation")
@dataclass_options(RunOptions, "options", "Run")
@dataclass_options(TrainingData, "machine", "Run", only=("threads",))
def command(
    dataset: DatasetOptions,
    out: Path | None,
    resume: Path | None,
    network: NetworkConfig,
    settings: dict[str, str],
    data: TrainingData,
    clips: ClipConfig,
    config: TrainConfig,
    options: RunOptions,
    machine: TrainingData,
) -> int:
    """Train a network on clips of a labelled dataset.

    Writes weights.safetensors into the folder of the run, for export and eval. Ctrl-C or SIGTERM
    saves a checkpoint and stops; --resume continues to the same weights. On several GPUs, run
    'accelerate launch --multi_gpu -m streamseg.cli.main' with the same arguments.
    """
    if resume is not None and str(resume).startswith("-"):
        raise click.UsageError("--resume expects the folder of the run: --resume FOLDER")
    folder = out if resume is None else resume
    if folder is None or (out is not None and resume is not None):
        raise click.UsageError("expected --out FOLDER for a new run, or --resume FOLDER")
    for checkpoint in (data.init, data.encoder_weights):
        if checkpoint is not None:
            require_checkpoint(str(checkpoint))
    require_packages()
    clips_read = dataset.open()
    with show_phases("loading PyTorch"):
        from streamseg.training.running import start_run
        from streamseg.training.saving import RunFolder

    report = start_run(
        replace(config, network=replace(network, settings=settings), clips=clips),
        replace(data, threads=machine.threads),
        clips_read,
        replace(options, resume=resume is not None, progress=True),
        RunFolder(folder),
        record={"dataset": dataset.dataset, "split": dataset.split},
        command_line=sys.argv[1:],
    )
    if report.signal is not None:
        name = signal.Signals(report.signal).name
        click.echo(f"stopped by {name} after step {report.step}; resume with --resume", err=True)
        return 128 + report.signal
    if report.weights is not None:
        click.echo(f"wrote {report.weights} after {count_of(report.step, 'step')}")
    return 0

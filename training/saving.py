"""A run's folder: its configuration, the checkpoint to resume from, and the weights it gives."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from streamseg._version import __version__
from streamseg.errors import TrainingError, raised_as
from streamseg.export.checkpoint import is_finite, save_checkpoint
from streamseg.files import make_folder, whole_file
from streamseg.training.config import differing
from streamseg.training.networks import Network

CONFIG, LAST, WEIGHTS = "config.json", "last.pt", "weights.safetensors"
LOG, CURVES = "log.jsonl", "curves.png"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    root: Path

    @property
    def last(self) -> Path:
        """The checkpoint that ``--resume`` continues from."""
        return self.root / LAST

    @property
    def weights(self) -> Path:
        """Safetensors with published key names."""
        return self.root / WEIGHTS

    @property
    def log(self) -> Path:
        """JSON lines."""
        return self.root / LOG

    @property
    def curves(self) -> Path:
        """The loss curves' picture."""
        return self.root / CURVES

    def start(
        self, content: Mapping[str, Any], *, resume: bool, command_line: Sequence[str] = ()
    ) -> None:
        """Write the configuration, or on resuming check that it is the same.

        A run that ended before its first checkpoint left nothing: its folder may be taken again,
        with other settings too.

        Raises:
            TrainingError: the folder holds a run already, or none to resume, or another one.
        """
        path = self.root / CONFIG
        if resume and not path.is_file():
            raise TrainingError(f"{self.root} holds no run to resume: {path} is missing")
        if not (self.last.is_file() or self.weights.is_file()):
            make_folder(self.root, TrainingError)
            made_by = {**describe_machine(), "command": shlex.join(command_line)}
            record = {**content, "made_by": made_by}
            with whole_file(path, TrainingError) as draft:
                draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            return
        if not resume:
            raise TrainingError(
                f"{self.root} holds a run already. Resume it with --resume FOLDER, or choose "
                "another folder"
            )
        with raised_as(TrainingError, f"the settings of the run in {path}"):
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        before.pop("made_by", None)
        if found := differing(before, json.loads(json.dumps(content))):
            raise TrainingError(
                f"{self.root} was started with other settings: {'; '.join(found)}. Resume with "
                "the same, or start a run in another folder"
            )

    def record_steps(self, steps: int) -> None:
        """Write the number of steps that a run chose into its configuration.

        Raises:
            TrainingError: the configuration cannot be read or written.
        """
        path = self.root / CONFIG
        with raised_as(TrainingError, f"the settings of the run in {path}"):
            content = dict(json.loads(path.read_text(encoding="utf-8")))
        with whole_file(path, TrainingError) as draft:
            draft.write_text(
                json.dumps({**content, "steps": steps}, indent=1) + "\n", encoding="utf-8"
            )

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint; the one before it stays whole until this one is.

        Raises:
            TrainingError: a weight is not finite, or the file cannot be written; the checkpoint
                before is kept.
        """
        bad = [name for name, value in state["network"].items() if not is_finite(value)]
        if bad:
            raise TrainingError(
                f"step {state['step']}: {bad[0]} is not finite, so no checkpoint was written. "
                f"{self.describe_last()} Lower --lr or set --clip-norm"
            )
        try:
            with whole_file(self.last, TrainingError) as draft:
                _save(dict(state), draft)
        except TrainingError as error:
            raise TrainingError(f"{error}. {self.describe_last()}") from error

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, or None where a run was stopped before its first.

        Raises:
            TrainingError: it cannot be read.
        """
        if not self.last.is_file():
            return None
        try:
            content = torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:
            raise TrainingError(f"{self.last} cannot be read: {error}") from error
        assert isinstance(content, dict)
        return content

    def describe_last(self) -> str:
        """A sentence on the last good checkpoint."""
        found = self.load()
        if found is None:
            return "There is no checkpoint before it."
        return f"The last good checkpoint is {self.last} of step {found['step']}."


def save_weights(
    network: Network,
    path: Path,
    *,
    license: str,  # noqa: A002
    size: tuple[int, int],
    half: bool = False,
) -> None:
    """Write weights as ``load_checkpoint`` reads them, with all that they need to be run.

    Args:
        network: on any device, with its classes.
        path: the safetensors file.
        license: of the weights, which follows from the data's.
        size: (H, W) of the frames that the network was trained on.
        half: float16 tensors.
    """
    metadata = {
        "license": license,
        "training_size": f"{size[0]}x{size[1]}",
        "made_by": f"streamseg {__version__} train",
    }
    save_checkpoint(network, path, metadata=metadata, half=half)


def describe_machine() -> dict[str, Any]:
    """Versions, commit and processor, for the record."""
    return {
        "streamseg": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # How PyTorch puts a failed write; its words are of its own file format.
        raise OSError("the file ended early") from error

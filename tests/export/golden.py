"""Reading the golden fixtures (see their READMEs for every array)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Golden:
    """One fixture file: its arrays, and the checkpoint and frames that it was made from."""

    arrays: dict[str, np.ndarray[Any, Any]]
    config: dict[str, Any]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """State dict under published names, floats widened to float32."""
        found = {}
        for key, array in self.arrays.items():
            if key.startswith("param/"):
                tensor = torch.from_numpy(array)
                found[key.removeprefix("param/")] = (
                    tensor.float() if tensor.is_floating_point() else tensor
                )
        return found

    @property
    def frames(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] uint8: the normalised frames of the file, restored exactly."""
        mean = np.array(self.config["mean"])[:, None, None]
        std = np.array(self.config["std"])[:, None, None]
        pixels = self.arrays["frames"] * std + mean
        rounded = np.round(pixels)
        assert np.abs(pixels - rounded).max() < 1e-3
        return np.ascontiguousarray(rounded.astype(np.uint8).transpose(0, 2, 3, 1))

    def save_checkpoint(self, path: Path) -> Path:
        """Write an mmcv-style checkpoint."""
        classes = [f"thing {i}" for i in range(self.config["num_classes"])]
        torch.save({"meta": {"CLASSES": classes}, "state_dict": self.weights}, path)
        return path


def read_golden(shared: Path, name: str) -> Golden:
    with np.load(shared / "golden" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return Golden(arrays, json.loads(str(arrays["config"])))

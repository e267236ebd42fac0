"""From a command's options to a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import Dataset, open_dataset, require_labelled_pixels
from streamseg.evaluation.progress import frame_progress
from streamseg.export.formats.layouts import summarise
from streamseg.training.cache import cache_frames
from streamseg.training.clip_sampler import count_classes, require_classes
from streamseg.training.config import ClipConfig, NetworkConfig, TrainConfig
from streamseg.training.encoders import load_encoder
from streamseg.training.loop import RunOptions, TrainReport, build_accelerator, train
from streamseg.training.networks import build_network, resolve_settings, start_from
from streamseg.training.saving import RunFolder

logger = logging.getLogger(__name__)

SYNTHETIC_LICENSE = "Apache-2.0"


def start_run(given: Mapping[str, Any], *, command_line: Sequence[str]) -> TrainReport:
    """Train as the options of ``streamseg train`` say.

    Args:
        given: the options by name.
        command_line: kept in the run's record.
    Raises:
        StreamsegError: an option, the dataset or a checkpoint does not fit.
    """
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    if given["init"] and given["encoder_weights"]:
        raise TrainingError("--init fills the encoder too: leave out --encoder-weights")
    given = {**given, "settings": _settings(given)}
    config = _read_config(given, class_weights=None)
    accelerator = build_accelerator(config, given["device"])
    with accelerator.main_process_first():
        dataset = _open(given, show=accelerator.is_main_process)
    weights = _class_weights(given["class_weights"], dataset, config.clips)
    config = _read_config(given, class_weights=weights)
    network = build_network(config.network, dataset.classes, seed=config.seed)
    if given["encoder_weights"]:
        load_encoder(network, given["encoder_weights"])
    if given["init"]:
        missing = start_from(network, given["init"], classes_by=given["classes_by"])
        if missing and accelerator.is_main_process:
            logger.warning(
                "%s fills all but %d tensors, which keep their seeded weights: %s",
                given["init"],
                len(missing),
                summarise(dict.fromkeys(missing)),
            )
    folder = RunFolder(given["out"])
    if accelerator.is_main_process:
        content = {
            **config.as_json(),
            "dataset": given["dataset"],
            "split": given["split"],
            "init": _name(given["init"] or given["encoder_weights"]),
        }
        folder.start(content, resume=given["resume"], command_line=command_line)
    accelerator.wait_for_everyone()
    drawn = dataset.name == "synthetic" and not given["init"] and not given["encoder_weights"]
    options = RunOptions(
        device=given["device"],
        workers=given["workers"],
        save_every=given["save_every"],
        log_every=given["log_every"],
        license=given["license_"] or (SYNTHETIC_LICENSE if drawn else "unknown"),
        half=given["half"],
        silence_absent=given["silence_absent"],
        resume=given["resume"],
        stop_at=given["stop_at"],
        progress=True,
    )
    return train(network, dataset, config, folder, options, accelerator=accelerator)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the network to train, in plain values for the run's record."""
    names = {k: given[k] for k in NetworkConfig.__dataclass_fields__}
    values = resolve_settings(NetworkConfig(**names), given["init"]).values
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _read_config(
    given: Mapping[str, Any], *, class_weights: tuple[float, ...] | None
) -> TrainConfig:
    network = NetworkConfig(**{k: given[k] for k in NetworkConfig.__dataclass_fields__})
    clips = ClipConfig(**{k: given[k] for k in ClipConfig.__dataclass_fields__})
    rest = {k: given[k] for k in TrainConfig.__dataclass_fields__ if k in given}
    rest |= {"network": network, "clips": clips, "class_weights": class_weights}
    return TrainConfig(**rest)


def _open(given: Mapping[str, Any], *, show: bool) -> Dataset:
    dataset = open_dataset(given["dataset"], given["split"])
    require_classes(dataset)
    require_labelled_pixels(dataset)
    if given["cache"] is None:
        return dataset
    if not show:
        return cache_frames(dataset, given["cache"])
    with frame_progress(dataset.frame_count) as advance:
        return cache_frames(dataset, given["cache"], progress=advance)


def _class_weights(
    asked: str | None, dataset: Dataset, clips: ClipConfig
) -> tuple[float, ...] | None:
    if asked is None:
        return None
    if asked == "log":
        counts = count_classes(dataset, ignore_index=clips.ignore_index)
        share = counts / max(1, counts.sum())
        return tuple(float(w) for w in np.round(1 / np.log(1.1 + share), 4))
    try:
        found = json.loads(Path(asked).read_text(encoding="utf-8"))
        weights = tuple(float(value) for value in found)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"class weights {asked}: expected 'log' or a JSON file with a list of numbers ({error})"
        ) from None
    if len(weights) != len(dataset.classes) or min(weights) < 0:
        raise TrainingError(
            f"class weights {asked}: {len(weights)} numbers, expected {len(dataset.classes)}, "
            "0 or more each"
        )
    return weights


def _name(path: Path | None) -> str | None:
    return None if path is None else path.name

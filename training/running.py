"""From a command's options to a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import Dataset, require_labelled_pixels
from streamseg.evaluation.progress import frame_progress
from streamseg.export.formats.layouts import summarise
from streamseg.training.cache import cache_frames
from streamseg.training.clip_sampler import count_classes, require_classes
from streamseg.training.config import (
    ClipConfig,
    NetworkConfig,
    RunOptions,
    TrainConfig,
    TrainingData,
)
from streamseg.training.encoders import load_encoder
from streamseg.training.loop import TrainReport, build_accelerator, train
from streamseg.training.networks import (
    EncoderNetwork,
    Network,
    build_memory,
    build_network,
    resolve_settings,
    start_from,
)
from streamseg.training.saving import RunFolder
from streamseg.training.teaching import require_same_classes, teach

logger = logging.getLogger(__name__)

# Families that are trained over another's weights.
_STARTED = {
    "cffm++": "its global branch over a trained CFFM",
    "mpvss": "its motion network and two heads over a trained Mask2Former",
}
SYNTHETIC_LICENSE = "Apache-2.0"


def start_run(
    config: TrainConfig,
    data: TrainingData,
    dataset: Dataset,
    options: RunOptions,
    folder: RunFolder,
    *,
    record: Mapping[str, str],
    command_line: Sequence[str] = (),
) -> TrainReport:
    """Train.

    Args:
        config: what decides the weights; ``class_weights`` come from ``data``.
        data: what the run starts from.
        dataset: the clips.
        options: how the run is carried out.
        folder: of the run.
        record: what else the run's record holds, such as the address of the dataset.
        command_line: kept in the run's record.
    Raises:
        StreamsegError: an option, the dataset or a checkpoint does not fit.
    """
    if data.threads:
        torch.set_num_threads(data.threads)
    if data.memory_for:
        config = replace(config, network=replace(config.network, model="memory"))
    model = config.network.model
    if model in _STARTED and not data.init:
        raise TrainingError(f"{model} trains {_STARTED[model]}: give --init CHECKPOINT")
    if model == "memory" and not data.memory_for:
        raise TrainingError("memory trains temporal blocks over a bundle: give --memory-for BUNDLE")
    network_config = replace(config.network, settings=_settings(config.network, data.init))
    config = replace(config, network=network_config)
    accelerator = build_accelerator(config, options.device)
    if data.memory_for and data.teacher == "segmenter":
        dataset = teach(dataset, data.memory_for, erase=config.clips.erase)
    with accelerator.main_process_first():
        # A teacher's session does not outlive a fork.
        workers = 0 if data.teacher == "segmenter" else options.workers
        shown = accelerator.is_main_process
        dataset = _prepare(dataset, data.cache, workers=workers, show=shown)
    weights = _class_weights(data.class_weights, dataset, config.clips)
    config = replace(config, class_weights=weights)
    network: Network
    if data.memory_for:
        network = build_memory(config.network, data.memory_for, seed=config.seed)
        require_same_classes(network, dataset, classes_by=data.classes_by)
    else:
        network = _build(config, data, dataset, show=accelerator.is_main_process)
    if accelerator.is_main_process:
        content = {
            **config.as_json(),
            **record,
            "init": _name(data.init or data.encoder_weights or data.memory_for),
            **({"teacher": data.teacher} if data.memory_for else {}),
        }
        folder.start(content, resume=options.resume, command_line=command_line)
    accelerator.wait_for_everyone()
    started = data.init or data.encoder_weights or data.memory_for
    drawn = dataset.name == "synthetic" and not started
    license_ = options.license or (SYNTHETIC_LICENSE if drawn else "unknown")
    options = replace(options, license=license_)
    return train(network, dataset, config, folder, options, accelerator=accelerator)


def _build(
    config: TrainConfig, data: TrainingData, dataset: Dataset, *, show: bool
) -> EncoderNetwork:
    network = build_network(config.network, dataset.classes, seed=config.seed)
    if data.encoder_weights:
        load_encoder(network, data.encoder_weights)
    if data.init:
        missing = start_from(network, data.init, classes_by=data.classes_by)
        if missing and show:
            logger.warning(
                "%s fills all but %d tensors, which keep their seeded weights: %s",
                data.init,
                len(missing),
                summarise(dict.fromkeys(missing)),
            )
    return network


def _settings(config: NetworkConfig, init: Path | None) -> dict[str, Any]:
    """All settings of the network to train, in plain values for the run's record."""
    values = resolve_settings(config, init).values
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _prepare(dataset: Dataset, cache: Path | None, *, workers: int, show: bool) -> Dataset:
    require_classes(dataset)
    require_labelled_pixels(dataset)
    if cache is None:
        return dataset
    if not show:
        return cache_frames(dataset, cache, workers=workers)
    with frame_progress(dataset.frame_count) as advance:
        return cache_frames(dataset, cache, workers=workers, progress=advance)


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

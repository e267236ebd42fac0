"""The training loop: one step at a time, each a pure function of the state before it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from streamseg.counting import count_of
from streamseg.errors import TrainingError
from streamseg.evaluation.datasets import Dataset
from streamseg.export.models.cffm import CFFMPlus
from streamseg.export.models.mask2former import Mask2Former
from streamseg.signals import StopRequest, stop_on_signals
from streamseg.training.averaging import WeightAverage
from streamseg.training.clip_sampler import ClipBatch, ClipSampler, count_classes, iterate_batches
from streamseg.training.config import RunOptions, TrainConfig
from streamseg.training.history import draw_curves, open_history, step_progress
from streamseg.training.loss import ClipLoss, LossParts
from streamseg.training.mask_loss import MaskLoss
from streamseg.training.memory import Size, advise, find_fitting
from streamseg.training.networks import (
    ClipNetwork,
    Network,
    check_clips,
    fuse_attention,
    silence_absent,
)
from streamseg.training.normalisation import synchronise_batch_norm
from streamseg.training.optimiser import build_optimiser, schedule, set_learning_rate
from streamseg.training.pace import Pace
from streamseg.training.reference_clips import find_prototypes
from streamseg.training.saving import RunFolder, save_weights

ACCELERATE_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class TrainReport:
    """How a run ended.

    Attributes:
        step: steps done.
        signal: number of the signal that stopped it, None: it came to its end.
        weights: the file written at the end.
    """

    step: int
    signal: int | None
    weights: Path | None


def build_accelerator(config: TrainConfig, device: str) -> Accelerator:
    """The launcher's view of processes, device and precision.

    Raises:
        TrainingError: the device is missing, or lacks the precision.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device is 'cuda', but PyTorch sees no GPU here")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if on_cpu and config.precision == "fp16":
        raise TrainingError("precision fp16 needs a GPU; a CPU takes fp32 or bf16")
    return Accelerator(cpu=on_cpu, mixed_precision=ACCELERATE_PRECISIONS[config.precision])


class Trainer:
    """Network, optimiser and average of one run; knows how to do, save and restore a step."""

    def __init__(
        self,
        network: Network,
        config: TrainConfig,
        accelerator: Accelerator,
        *,
        prototypes: Tensor | None = None,
    ) -> None:
        self.config = config
        self.step = 0
        self._accelerator = accelerator
        self.processes = accelerator.num_processes
        whole = ClipNetwork(network, prototypes)
        if self.processes > 1:
            synchronise_batch_norm(whole)
        if accelerator.device.type == "cuda":
            fuse_attention(network)
        self.network = network
        self._prototypes = prototypes
        self._whole, self._optimiser = accelerator.prepare(whole, build_optimiser(whole, config))
        self._average = WeightAverage(network, config.ema) if config.ema else None
        self._loss = self._build_loss(network)

    def _build_loss(self, network: Network) -> ClipLoss | MaskLoss:
        config, accelerator = self.config, self._accelerator
        weights = config.class_weights
        if isinstance(network, Mask2Former):
            return MaskLoss(ignore_index=config.clips.ignore_index)
        return ClipLoss(
            auxiliary=config.auxiliary,
            supervise=config.supervise,
            class_weights=None if weights is None else torch.tensor(weights).to(accelerator.device),
            ignore_index=config.clips.ignore_index,
            reduce=self._sum_over_processes if self.processes > 1 else None,
            processes=self.processes,
        )

    def advance(self, batch: ClipBatch) -> LossParts:
        """Do one optimiser step; the losses are those of all processes.

        Raises:
            TrainingError: the loss is not finite; weights and checkpoint are those before.
        """
        self._whole.train()
        # Dropout of a step depends on the step alone: no generator state to carry over.
        torch.manual_seed(hash((self.config.seed, self.step, self._accelerator.process_index)))
        set_learning_rate(self._optimiser, schedule(self.step, self.config))
        batch = batch.to(self._accelerator.device)
        scores, auxiliary = self._whole(batch.frames, batch.places)
        parts = self._loss(scores, auxiliary, batch.labels)
        seen = self._over_processes(parts)
        if not math.isfinite(float(seen.total)):
            raise TrainingError(f"step {self.step}: the loss is {float(seen.total)}")
        self._accelerator.backward(parts.total)
        if self.config.clip_norm:
            self._accelerator.clip_grad_norm_(self._whole.parameters(), self.config.clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if self._average is not None:
            self._average.update(self.network, self.step)
        self.step += 1
        return seen

    def limit(self, steps: int) -> None:
        """Lower the number of steps; the schedule's decay follows."""
        self.config = replace(self.config, steps=min(steps, self.config.steps))

    def fits(self, size: Size) -> bool:
        """Whether a step of so many clips and such a crop has enough memory; changes nothing."""
        batch, crop = size
        shape = (batch, len(self.config.clips.offsets), *crop)
        device = self._accelerator.device
        network = ClipNetwork(self.network, self._prototypes).train()
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        trained = [value for value in network.parameters() if value.requires_grad]
        try:
            with self._accelerator.autocast():
                scores, auxiliary = network(torch.zeros(*shape, 3, dtype=torch.uint8).to(device))
            labels = torch.zeros(shape, dtype=torch.uint8).to(device)
            self._loss(scores.float(), auxiliary, labels).total.backward()  # type: ignore[no-untyped-call]
            # AdamW's two moments, which the first step allocates.
            if not self._optimiser.state:
                _ = [torch.empty_like(value) for value in trained for _ in range(2)]
        except torch.OutOfMemoryError:
            return False
        finally:
            for value in trained:
                value.grad = None
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
            if device.type == "cuda":
                torch.cuda.empty_cache()
        return True

    def describe_shortage(self) -> str:
        """A size that fits, after a step did not."""
        clips = self.config.clips
        if self.processes > 1:
            return "Give a smaller --batch or --crop (one process alone would say which fits)"
        for value in self._whole.parameters():
            value.grad = None
        return advise(find_fitting(clips.batch, clips.crop, self.fits), processes=1)

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        found = self._accelerator.reduce(value, reduction="sum")
        assert isinstance(found, Tensor)
        return found

    def _over_processes(self, parts: LossParts) -> LossParts:
        stacked = torch.stack([parts.total, parts.temporal, parts.auxiliary]).detach()
        if self.processes > 1:
            stacked = self._sum_over_processes(stacked) / self.processes
        return LossParts(*stacked.unbind())

    def any_stop(self, request: StopRequest) -> bool:
        """Whether any process was asked to stop; all must ask at the same step."""
        if self.processes == 1:
            return request.event.is_set()
        flag = torch.tensor(float(request.event.is_set()), device=self._accelerator.device)
        return bool(self._sum_over_processes(flag) > 0)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        scaler = self._accelerator.scaler
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": None if self._average is None else self._average.tensors,
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._average is not None:
            for name, value in state["average"].items():
                self._average.tensors[name].copy_(value)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def finish(self) -> Network:
        """The network with the weights to keep, ready for evaluation."""
        if self._average is not None:
            self._average.copy_to(self.network)
        self.network.eval()
        return self.network


def train(
    network: Network,
    dataset: Dataset,
    config: TrainConfig,
    folder: RunFolder,
    options: RunOptions,
    *,
    accelerator: Accelerator | None = None,
) -> TrainReport:
    """Train, or resume training.

    The folder gets checkpoints, ``log.jsonl``, and at the end ``weights.safetensors`` and
    ``curves.png``. SIGINT and SIGTERM end the run after the current step with a checkpoint.

    Args:
        network: from ``build_network``; holds the trained weights in the end.
        dataset: labelled clips.
        config: what the weights follow from.
        folder: of the run, started.
        options: how the run is carried out.
        accelerator: from ``build_accelerator``; its processes part when the run ends.
    Raises:
        TrainingError: no clips, a bad label, a loss that is not finite, too little GPU memory.
        DatasetError: a file is damaged.
    """
    accelerator = accelerator or build_accelerator(config, options.device)
    report = _train(network, dataset, config, folder, options, accelerator)
    # A gloo thread that lives on drops its last tensor while the interpreter goes, and aborts.
    accelerator.free_memory()
    accelerator.end_training()
    return report


def _train(
    network: Network,
    dataset: Dataset,
    config: TrainConfig,
    folder: RunFolder,
    options: RunOptions,
    accelerator: Accelerator,
) -> TrainReport:
    if config.clips.batch % accelerator.num_processes:
        raise TrainingError(
            f"batch is {config.clips.batch}: expected a multiple of the "
            f"{count_of(accelerator.num_processes, 'process')}"
        )
    if options.until is not None and accelerator.num_processes > 1:
        raise TrainingError("--until measures one process: start one, or give --steps")
    if options.until is not None and config.warmup < 2:
        raise TrainingError(
            f"--until measures the warm-up: expected --warmup 2 or more, got {config.warmup}"
        )
    check_clips(network, config.clips)
    sampler = ClipSampler(dataset, config.clips, seed=config.seed)
    prototypes = None
    if isinstance(network, CFFMPlus):
        prototypes = find_prototypes(network, dataset, seed=config.seed)
    # Before the first step: a long count at the end would delay the weights past --until.
    seen = None
    if options.silence_absent:
        seen = count_classes(dataset, ignore_index=config.clips.ignore_index, most=None)
    trainer = Trainer(network, config, accelerator, prototypes=prototypes)
    if options.resume and (found := folder.load()) is not None:
        trainer.restore(found)
    with stop_on_signals() as request:
        _run(trainer, sampler, folder, options, accelerator, request)
    stopped = request.signal if trainer.step < _last_step(trainer.config, options) else None
    if stopped is not None or not accelerator.is_main_process:
        return TrainReport(trainer.step, stopped, None)
    finished = trainer.finish()
    if seen is not None:
        silence_absent(finished, seen)
    save_weights(
        finished,
        folder.weights,
        license=options.license or "unknown",
        size=config.clips.crop,
        half=options.half,
    )
    draw_curves(folder.log, folder.curves)
    return TrainReport(trainer.step, None, folder.weights)


def _last_step(config: TrainConfig, options: RunOptions) -> int:
    return config.steps if options.stop_at is None else min(options.stop_at, config.steps)


def _run(
    trainer: Trainer,
    sampler: ClipSampler,
    folder: RunFolder,
    options: RunOptions,
    accelerator: Accelerator,
    request: StopRequest,
) -> None:
    config, last = trainer.config, _last_step(trainer.config, options)
    main = accelerator.is_main_process
    pace = Pace(options.until)
    history = open_history(folder.log, step=trainer.step) if main else None
    batches = iterate_batches(
        sampler,
        range(trainer.step, last),
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=options.workers,
        pinned=accelerator.device.type == "cuda",
    )
    start, frames = time.monotonic(), 0
    try:
        with step_progress(last, shown=options.progress and main) as advance:
            for batch in batches:
                parts = _advance(trainer, batch, folder)
                frames += config.clips.batch * len(config.clips.offsets)
                rate = frames / (time.monotonic() - start)
                if (steps := pace.choose_steps(trainer.step, config.warmup)) is not None:
                    trainer.limit(steps)
                    last = _last_step(trainer.config, options)
                    folder.record_steps(trainer.config.steps)
                logged = trainer.step % options.log_every == 0 or trainer.step == last
                if history is not None and logged:
                    history.write(
                        {
                            "step": trainer.step,
                            "loss": round(float(parts.total), 5),
                            "temporal": round(float(parts.temporal), 5),
                            "auxiliary": round(float(parts.auxiliary), 5),
                            "lr": config.lr * schedule(trainer.step - 1, trainer.config),
                            "frames_per_second": round(rate, 2),
                            "seconds": round(time.monotonic() - start, 1),
                            "cpu_seconds": round(time.process_time(), 1),
                        }
                    )
                advance(trainer.step, f"loss {float(parts.total):.3f}, {rate:.1f} frames/s", last)
                stop = trainer.any_stop(request)
                due = trainer.step % options.save_every == 0 or trainer.step == last
                if main and (due or stop):
                    folder.save(trainer.state())
                if stop or trainer.step >= last:
                    return
    finally:
        if history is not None:
            history.close()


def _advance(trainer: Trainer, batch: ClipBatch, folder: RunFolder) -> LossParts:
    """A step; an error also names what to go back to, or what would fit."""
    try:
        return trainer.advance(batch)
    except torch.OutOfMemoryError:
        pass  # outside, the failed step's tensors are no longer held by the exception
    except TrainingError as error:
        advice = "Lower --lr or set --clip-norm"
        raise TrainingError(f"{error}. {folder.describe_last()} {advice}") from None
    clips = trainer.config.clips
    raise TrainingError(
        f"step {trainer.step}: {count_of(clips.batch, 'clip')} of "
        f"{count_of(len(clips.offsets), 'frame')} "
        f"{clips.crop[0]}x{clips.crop[1]} do not fit into the memory of the GPU. "
        + trainer.describe_shortage()
    )

"""Everything that decides what a training run computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from streamseg.errors import TrainingError

MODELS = ("tv3s", "segformer")
SUPERVISION = ("last", "all")
PRECISIONS = ("float32", "bf16", "fp16")
PAPER_OFFSETS = (-9, -6, -3, 0)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network to train.

    Attributes:
        model: "tv3s", or "segformer": the same encoder and decoder, frame by frame.
        encoder: a name of ``ENCODER_PRESETS``.
        embed_dim: channels of the decoder and of the temporal blocks.
        layers, expand, states: temporal layers, ``d_inner / embed_dim``, states per channel.
        settings: of the family by name, such as ``window`` and ``shift``; those of the publication
            where it has none.
        drop_path: stochastic depth of the encoder, 0 to 1.
    """

    model: str = "tv3s"
    encoder: str = "mit_b1"
    embed_dim: int = 256
    layers: int = 8
    expand: int = 2
    states: int = 16
    settings: Mapping[str, Any] = field(default_factory=dict)
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        _choose("model", self.model, MODELS)
        for name in ("embed_dim", "layers", "expand", "states"):
            _least(name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a batch holds.

    Attributes:
        offsets: frames of a clip relative to its last, ascending, ending in 0.
        batch: clips a step, over all processes.
        crop: (height, width) that the network sees.
        scale: range of the random resize.
        flip: chance of a mirrored clip.
        photometric: random brightness, contrast, saturation and hue.
        ignore_index: label value that is not scored.
    """

    offsets: tuple[int, ...] = PAPER_OFFSETS
    batch: int = 8
    crop: tuple[int, int] = (480, 480)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: bool = True
    ignore_index: int = 255

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.offsets, self.offsets[1:], strict=False))
        if not self.offsets or self.offsets[-1] != 0 or not ascending:
            raise TrainingError(
                f"offsets are {list(self.offsets)}: expected ascending frame offsets that end in "
                "0, such as -9,-6,-3,0"
            )
        _least("batch", self.batch, 1)
        _least("crop", min(self.crop), 1)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise TrainingError(f"scale is {self.scale}: expected 0 < low <= high")
        if not 0 <= self.flip <= 1:
            raise TrainingError(f"flip is {self.flip}: expected a chance from 0 to 1")
        if not 0 <= self.ignore_index <= 255:
            raise TrainingError(f"ignore index is {self.ignore_index}: expected 0 to 255")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run; equal configurations on equal data and software give equal weights.

    Attributes:
        network, clips: see there.
        steps: optimiser steps in all.
        lr: learning rate of the encoder; the head's is ``head_lr`` times that.
        weight_decay: of weights; norms, biases and one-dimensional tensors have none.
        warmup: steps of linear rise.
        power: of the polynomial decay.
        clip_norm: largest gradient norm, 0: unlimited.
        auxiliary: weight of the auxiliary cross-entropy's sum over frames.
        supervise: "last": temporal output of the last frame (the paper); "all": mean over frames.
        class_weights: one a class, None: all 1.
        ema: decay of the averaged weights that are saved, 0: none.
        precision: of the encoder and decoder; temporal blocks are always float32.
        seed: of weights, sampling, augmentation and dropout.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    steps: int = 160_000
    lr: float = 6e-5
    head_lr: float = 10.0
    weight_decay: float = 0.01
    warmup: int = 1500
    power: float = 1.0
    clip_norm: float = 0.0
    auxiliary: float = 0.5
    supervise: str = "last"
    class_weights: tuple[float, ...] | None = None
    ema: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        _least("steps", self.steps, 1)
        _least("warmup", self.warmup, 0)
        for name in ("lr", "head_lr"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} is {getattr(self, name)}: expected more than 0")
        for name in ("weight_decay", "power", "clip_norm", "auxiliary"):
            _least(name, getattr(self, name), 0)
        _choose("supervise", self.supervise, SUPERVISION)
        _choose("precision", self.precision, PRECISIONS)
        if not 0 <= self.ema < 1:
            raise TrainingError(f"ema is {self.ema}: expected 0 (none) up to below 1")

    def as_json(self) -> dict[str, Any]:
        """Plain values, tuples as lists."""
        plain = asdict(self)
        return {key: _plain(value) for key, value in plain.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        """What ``as_json`` wrote."""
        parts = dict(content)
        parts["network"] = NetworkConfig(**parts["network"])
        parts["clips"] = ClipConfig(**{k: _tuple(v) for k, v in parts["clips"].items()})
        return cls(**{key: _tuple(value) for key, value in parts.items()})


def differing(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names under which two JSON objects differ."""
    found = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differing(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}: {left} and {right}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _least(name: str, value: float, low: float) -> None:
    if value < low:
        raise TrainingError(f"{name} is {value}: expected {low} or more")


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise TrainingError(f"{name} is {value!r}: expected one of {', '.join(known)}")

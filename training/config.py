"""Everything that decides what a training run computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from streamseg.destinations import FOLDER
from streamseg.errors import TrainingError
from streamseg.evaluation.class_matching import CLASSES_BY_HELP, ClassesBy
from streamseg.option_fields import check_options, option, precision_option

ENCODERS = (
    *(f"mit_b{size}" for size in range(6)),
    *(f"swin_{size}" for size in "tsbl"),
    *(f"convnext_{size}" for size in ("t", "s", "b", "l", "xl")),
    *("resnet50", "resnet101"),
    *("dinov3_vits16", "dinov3_vitb16", "dinov2_vits14", "dinov2_vitb14"),
)
DEVICES = ("auto", "cpu", "cuda")
MODELS = ("tv3s", "segformer", "cffm", "cffm++", "mrcfa", "mask2former", "mpvss", "memory")
TEACHERS = ("labels", "segmenter")
SUPERVISION = ("last", "all")
PRECISIONS = ("fp32", "bf16", "fp16")
PAPER_OFFSETS = (-9, -6, -3, 0)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network to train.

    Attributes:
        model: "tv3s"; "segformer": the same encoder and decoder, frame by frame; "cffm", "mrcfa";
            "cffm++": the global branch over a trained CFFM; "mask2former"; "mpvss": the motion
            network and two heads over a trained Mask2Former; "memory": temporal blocks over a
            bundle.
        encoder: a name of ``ENCODER_PRESETS``, or of ``MASK_ENCODERS`` for the last two.
        embed_dim: channels of the decoder and of the temporal blocks.
        layers, expand, states: of TV3S: temporal layers, ``d_inner / embed_dim``, states per
            channel.
        settings: of the family by name, such as ``window`` and ``shift``; those of the publication
            where it has none.
        drop_path: stochastic depth of the encoder, 0 to 1.
    """

    model: str = option(
        "Family. cffm++ and mpvss start from --init, memory needs --memory-for.",
        default="tv3s",
        choices=MODELS,
        common=True,
    )
    encoder: str = option("Encoder.", default="mit_b1", choices=ENCODERS, common=True)
    embed_dim: int = option("Channels of decoder and temporal layers.", default=256, low=1)
    layers: int = option("Temporal layers.", default=8, low=1)
    expand: int = option("Inner channels of a temporal layer / embed-dim.", default=2, low=1)
    states: int = option("State numbers per channel.", default=16, low=1)
    settings: Mapping[str, Any] = field(default_factory=dict)
    drop_path: float = option("Stochastic depth of the encoder.", default=0.1, low=0, high=1)

    def __post_init__(self) -> None:
        check_options(self, TrainingError)


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
        erase: chance that a frame after a clip's first loses a rectangle; its label stays.
        ignore_index: label value that is not scored.
    """

    offsets: tuple[int, ...] = option(
        "Frames of a clip, relative to its last.", default=PAPER_OFFSETS
    )
    batch: int = option(
        "Streams (export) or clips over all processes (train) per step.",
        default=8,
        low=1,
        common=True,
    )
    crop: tuple[int, int] = option("Size of the crops that the network sees.", default=(480, 480))
    scale: tuple[float, float] = option("Range of the random resize.", default=(0.5, 2.0))
    flip: float = option("Probability of a mirrored clip.", default=0.5, low=0, high=1)
    photometric: bool = option("Vary brightness, contrast, saturation and hue.", default=True)
    erase: float = option(
        "Probability that a frame after the clip's first loses a rectangle, which only memory can "
        "fill.",
        default=0.0,
        low=0,
        high=1,
    )
    ignore_index: int = option("Label value that is ignored.", default=255, low=0, high=255)

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.offsets, self.offsets[1:], strict=False))
        if not self.offsets or self.offsets[-1] != 0 or not ascending:
            raise TrainingError(
                f"offsets are {list(self.offsets)}: expected ascending frame offsets that end in "
                "0, such as -9,-6,-3,0"
            )
        check_options(self, TrainingError)
        _least("crop", min(self.crop), 1)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise TrainingError(f"scale is {self.scale}: expected 0 < low <= high")


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
        supervise: "last": temporal output of the last frame (the paper); "all": mean over frames,
            which only TV3S has.
        class_weights: one a class, None: all 1.
        ema: decay of the averaged weights that are saved, 0: none.
        precision: of the encoder and decoder; temporal blocks are always float32.
        seed: of weights, sampling, augmentation and dropout.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    steps: int = option("Optimiser steps.", default=160_000, low=1, common=True)
    lr: float = option("Learning rate of the encoder.", default=6e-5, above=0, common=True)
    head_lr: float = option("Learning rate of the head, times --lr.", default=10.0, above=0)
    weight_decay: float = option("Weight decay.", default=0.01, low=0)
    warmup: int = option("Steps of linear warm-up.", default=1500, low=0)
    power: float = option("Exponent of the polynomial decay.", default=1.0, low=0)
    clip_norm: float = option("Largest gradient norm; 0 disables clipping.", default=0.0, low=0)
    auxiliary: float = option("Weight of the auxiliary loss.", default=0.5, low=0)
    supervise: str = option(
        "Frames that the loss covers: the last, or all.", default="last", choices=SUPERVISION
    )
    class_weights: tuple[float, ...] | None = None
    ema: float = option("Decay of averaged weights; 0 disables them.", default=0.0, low=0)
    precision: str = precision_option(default="fp32", choices=PRECISIONS)
    seed: int = option("Seed of random choices.", default=0)

    def __post_init__(self) -> None:
        check_options(self, TrainingError)
        model = self.network.model
        if self.class_weights is not None and model in ("mask2former", "mpvss"):
            raise TrainingError(f"{model} takes no class weights: it matches queries")
        if self.supervise == "all" and model in ("cffm", "cffm++", "mrcfa"):
            raise TrainingError(
                f"supervise is 'all', but {model} has a temporal output for the last frame of a "
                "clip alone: use 'last'"
            )
        if not 0 <= self.ema < 1:
            raise TrainingError(f"ema is {self.ema}: expected 0 (none) up to below 1")

    def as_json(self) -> dict[str, Any]:
        """Plain values, tuples as lists."""
        plain = asdict(self)
        if not self.clips.erase:  # records of earlier runs have no such entry
            del plain["clips"]["erase"]
        return {key: _plain(value) for key, value in plain.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        """What ``as_json`` wrote."""
        parts = dict(content)
        if parts.get("precision") == "float32":  # as versions before 0.3 wrote it
            parts["precision"] = "fp32"
        parts["network"] = NetworkConfig(**parts["network"])
        parts["clips"] = ClipConfig(**{k: _tuple(v) for k, v in parts["clips"].items()})
        return cls(**{key: _tuple(value) for key, value in parts.items()})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing here changes its weights.

    Attributes:
        device: "auto", "cpu" or "cuda".
        workers: processes that read ahead.
        save_every: steps between checkpoints.
        log_every: steps between log lines; the last step has one of its own.
        license: of the weights, written into the file; None follows from the data.
        half: save the weights as float16.
        silence_absent: classes that no label of the dataset shows never win in what is saved.
        resume: continue from the folder's checkpoint.
        stop_at: step at which to end early, with weights; None: after ``config.steps``.
        until: Unix time by which to end, after at most ``config.steps``; the number of steps
            follows from the speed of the warm-up. None: no limit.
        progress: show a bar.
    """

    device: str = option(
        "Device: auto, cpu or cuda for PyTorch; CPU, GPU, GPU.1 or NPU for OpenVINO.",
        default="auto",
        common=True,
    )
    workers: int = option("Worker processes; 0 works in this process.", default=0, low=0)
    save_every: int = option("Steps between checkpoints.", default=500, low=1)
    log_every: int = option("Steps between log lines.", default=10, low=1)
    license: str | None = option(
        "License of the weights.", default=None, unset="follows from the data"
    )
    half: bool = option("Save the weights as float16.", default=False)
    silence_absent: bool = option(
        "Save weights that never predict a class which no label of the dataset shows.",
        default=False,
    )
    resume: bool = False
    stop_at: int | None = option(
        "Stop at this step of the schedule and write weights.", default=None, low=1
    )
    until: float | None = option(
        "End by this Unix time: --steps is lowered to what the speed of the warm-up allows.",
        default=None,
        above=0,
    )
    progress: bool = False

    def __post_init__(self) -> None:
        check_options(self, TrainingError)
        if self.device not in DEVICES:
            raise TrainingError(f"device is {self.device!r}, expected one of {', '.join(DEVICES)}")


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run trains on and starts from.

    Attributes:
        cache: folder for decoded frames.
        init: checkpoint to start from.
        encoder_weights: ImageNet weights of the encoder.
        memory_for: bundle whose network stays frozen; a memory for it is trained.
        teacher: of a memory: the dataset's labels, or the segmenter's own on whole frames.
        class_weights: ``log``, or a JSON file of numbers.
        classes_by: how classes of ``init`` are matched.
        threads: CPU threads of PyTorch.
    """

    cache: Path | None = option("Folder that keeps decoded frames.", default=None, written=FOLDER)
    init: Path | None = option("Checkpoint to start from (SegFormer or TV3S).", default=None)
    encoder_weights: Path | None = option("ImageNet weights of the encoder.", default=None)
    memory_for: Path | None = option("Bundle to train a memory for; it stays frozen.", default=None)
    teacher: str = option(
        "What a memory learns: the labels, or what the frozen segmenter gives for whole frames.",
        default="labels",
        choices=TEACHERS,
    )
    class_weights: str | None = option(
        "Weights of the classes: 'log' (1 / ln(1.1 + frequency)), or a JSON file of numbers.",
        default=None,
        metavar="log|FILE",
        unset="all equal",
    )
    classes_by: ClassesBy = option(CLASSES_BY_HELP, default="name")
    threads: int | None = option(
        "CPU threads of one step.", default=None, low=1, unset="the backend decides"
    )

    def __post_init__(self) -> None:
        check_options(self, TrainingError)
        if self.init and self.encoder_weights:
            raise TrainingError("--init fills the encoder too: leave out --encoder-weights")
        if self.memory_for and (self.init or self.encoder_weights):
            raise TrainingError(
                "--memory-for trains over a bundle as it is: leave out --init and --encoder-weights"
            )
        if self.teacher != "labels" and not self.memory_for:
            raise TrainingError("--teacher segmenter needs --memory-for BUNDLE")
        weights = self.class_weights
        if weights not in (None, "log") and not Path(str(weights)).is_file():
            raise TrainingError(
                f"class weights {weights}: expected 'log' or a JSON file with a list of numbers"
            )


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

"""The systems that can be imported: how each is recognised and built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.models.cffm import CFFM, CFFMPlus, infer_cffm
from streamseg.export.models.mask2former import Mask2Former, infer_mask2former
from streamseg.export.models.mpvss import MPVSS, infer_mpvss
from streamseg.export.models.mrcfa import MRCFA, infer_mrcfa
from streamseg.export.models.segformer import SegFormer, infer_segformer
from streamseg.export.models.tv3s import TV3S, infer_tv3s
from streamseg.export.step import StepModel


@dataclass(frozen=True)
class BuildOptions:
    """What tensor names and shapes do not tell; see ``load_checkpoint``."""

    window: tuple[int, int] = (20, 20)
    shift: tuple[int, int] = (10, 10)
    keep_ratio: float | None = None
    key_every: int = 5


@dataclass(frozen=True)
class Family:
    """A system: the prefix that one of its keys begins with, and how it is built.

    The first family of ``FAMILIES`` whose mark is found is taken, so heads that others build on
    stand behind them.
    """

    name: str
    mark: str
    build: Callable[[Mapping[str, Tensor], BuildOptions], StepModel]


def _tv3s(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:
    return TV3S(infer_tv3s(weights, window=options.window, shift=options.shift))


def _segformer(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:  # noqa: ARG001
    return SegFormer(infer_segformer(weights))


def _cffm(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:  # noqa: ARG001
    return CFFM(infer_cffm(weights))


def _cffm_plus(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:  # noqa: ARG001
    return CFFMPlus(infer_cffm(weights))


def _mrcfa(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:
    return MRCFA(infer_mrcfa(weights, keep_ratio=options.keep_ratio))


def _mpvss(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:
    return MPVSS(infer_mpvss(weights, key_every=options.key_every))


def _mask2former(weights: Mapping[str, Tensor], options: BuildOptions) -> StepModel:  # noqa: ARG001
    return Mask2Former(infer_mask2former(weights))


FAMILIES = (
    Family("tv3s", "decode_head.vs.", _tv3s),
    Family("cffm++", "decode_head.decoder_swin.", _cffm_plus),
    Family("cffm", "decode_head.decoder_focal.", _cffm),
    Family("mrcfa", "decode_head.hypercorre_module.", _mrcfa),
    Family("mpvss", "motion.decoder.", _mpvss),
    Family("mask2former", "sem_seg_head.predictor.", _mask2former),
    Family("segformer", "decode_head.linear_pred.", _segformer),
)


def recognise(weights: Mapping[str, Any]) -> Family:
    """The family of a checkpoint, by its key names.

    Raises:
        CheckpointError: none fits; the message says what the checkpoint holds.
    """
    for family in FAMILIES:
        if any(key.startswith(family.mark) for key in weights):
            return family
    known = ", ".join(f"{family.name} ({family.mark}*)" for family in FAMILIES)
    raise CheckpointError(
        f"no known system has these keys: {summarise(weights)}. Expected one of: {known}"
    )


def summarise(weights: Mapping[str, Any], most: int = 6) -> str:
    """The leading parts of the key names, for messages."""
    heads = sorted({".".join(str(key).split(".")[:2]) + ".*" for key in weights})
    return ", ".join(heads[:most]) + (", ..." if len(heads) > most else "")

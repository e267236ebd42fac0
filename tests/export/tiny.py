"""A seeded model of every family, as small as its architecture allows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamseg.export.models.cffm import CFFM, CFFMConfig, CFFMPlus
from streamseg.export.models.convnext import ConvNeXtSizes
from streamseg.export.models.mask2former import Mask2Former, Mask2FormerConfig
from streamseg.export.models.mit import MiTConfig
from streamseg.export.models.motion import MotionSizes
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig
from streamseg.export.models.mrcfa import MRCFA, MRCFAConfig
from streamseg.export.models.pixels import PixelSizes
from streamseg.export.models.resnet import ResNetSizes
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.models.swin import SwinSizes
from streamseg.export.models.tv3s import TV3S
from streamseg.export.models.upernet import UPerNet, UPerNetConfig
from streamseg.export.models.videomt import VidEoMT, VidEoMTConfig
from streamseg.export.palettes import read_classes
from streamseg.export.step import StepModel
from tests.export.test_checkpoint import MIT, SWIN

SIZE = (64, 96)
CLASSES = 3
ENCODER = MiTConfig((8, 16, 40, 64), (1, 1, 1, 1))
MASKS = {"width": 256, "layers": 3, "inner": 32, "queries": 5}
PIXELS = PixelSizes(width=32, mask_width=16, layers=1, inner=32)
STAGES = tuple(((width, 3),) for width in (8, 16, 32, 64, 64, 64))

FAMILIES: dict[str, Callable[[], StepModel]] = {
    "tv3s": lambda: TV3S(MIT),
    "tv3s-swin": lambda: TV3S(SWIN),
    "segformer": lambda: SegFormer(SegFormerConfig(ENCODER, 16, CLASSES)),
    "upernet": lambda: UPerNet(UPerNetConfig(SWIN.encoder, 8, CLASSES)),
    "upernet-convnext": lambda: UPerNet(
        UPerNetConfig(ConvNeXtSizes((8, 16, 24, 32), (1, 1, 1, 1)), 8, CLASSES)
    ),
    "segformer-convolutional": lambda: SegFormer(
        SegFormerConfig(ENCODER, 16, CLASSES, auxiliary_width=0, convolutional=True)
    ),
    "cffm": lambda: CFFM(CFFMConfig(ENCODER, 16, CLASSES)),
    "cffm++": lambda: CFFMPlus(CFFMConfig(ENCODER, 16, CLASSES)),
    "mrcfa": lambda: MRCFA(MRCFAConfig(ENCODER, 16, CLASSES, keep_ratio=0.5)),
    "mask2former": lambda: Mask2Former(
        Mask2FormerConfig(SwinSizes(24, (1, 1, 1, 1), (1, 2, 3, 6)), CLASSES, PIXELS, **MASKS)
    ),
    "mpvss": lambda: MPVSS(
        MPVSSConfig(
            ResNetSizes((1, 1, 1, 1), 8, 8, 32),
            CLASSES,
            PIXELS,
            **MASKS,
            motion=MotionSizes(STAGES, layers=3, inner=32, queries=5),
        )
    ),
    "videomt": lambda: VidEoMT(
        VidEoMTConfig(
            CLASSES,
            width=32,
            layers=3,
            query_layers=2,
            queries=5,
            heads=4,
            image_size=SIZE,
        )
    ),
}


def build(family: str) -> StepModel:
    """The model with seeded weights and classes without names."""
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    model.classes = read_classes({}, CLASSES)
    return model

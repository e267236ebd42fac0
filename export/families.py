"""The systems that can be imported: how each is recognised and built.

An installed package adds systems by entry points of the group ``streamseg.families``, each of which
names a ``Family``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import below
from streamseg.export.formats.layouts import Layout, own_layout, summarise
from streamseg.export.models.cffm import CFFM, CFFMConfig, CFFMPlus, infer_cffm
from streamseg.export.models.encoder import infer_encoder
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.mask2former import Mask2Former, Mask2FormerConfig, infer_mask2former
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig, infer_mpvss
from streamseg.export.models.mrcfa import MRCFA, MRCFAConfig, infer_mrcfa
from streamseg.export.models.resnet import infer_resnet
from streamseg.export.models.segformer import SegFormer, SegFormerConfig, infer_segformer
from streamseg.export.models.tv3s import TV3S, TV3SConfig, infer_tv3s
from streamseg.export.models.upernet import UPerNet, UPerNetConfig, infer_upernet
from streamseg.export.models.videomt import VidEoMT, VidEoMTConfig, encoder_of, infer_videomt
from streamseg.export.settings import Known, Setting, settings_of
from streamseg.export.step import StepModel

GROUP = "streamseg.families"


@dataclass(frozen=True)
class Family:
    """A system: what one of its keys begins with, its settings, and how it is built.

    The first family of ``known_families`` whose mark is found is taken, so heads that others build
    on stand behind them.

    Attributes:
        name: as in ``StepModel.family``.
        mark: what the name of one of its tensors begins with, and of no other system's.
        settings: made by ``settings_of`` from the dataclass of its configuration.
        build: weights by published name, and settings (those above, and all that the file says of
            its network) to a model of that architecture; the caller fills in the weights.
        catalogue: rows for ``streamseg models``, name -> function of a number of classes.
        paper: where it was published, for these rows.
        encoder: the name of a checkpoint's encoder; by default recognised among our own.
    """

    name: str
    mark: str | tuple[str, ...]
    settings: Mapping[str, Setting]
    build: Callable[[Mapping[str, Tensor], Known], StepModel]
    catalogue: Mapping[str, Callable[[int], StepModel]] = field(default_factory=dict)
    paper: str = ""
    encoder: Callable[[Mapping[str, Tensor]], str] | None = None


FAMILIES = (
    Family(
        "tv3s",
        "decode_head.vs.",
        settings_of(BlocksConfig, TV3SConfig),
        lambda weights, settings: TV3S(infer_tv3s(weights, settings)),
    ),
    Family(
        "cffm++",
        "decode_head.decoder_swin.",
        settings_of(CFFMConfig),
        lambda weights, settings: CFFMPlus(infer_cffm(weights, settings)),
    ),
    Family(
        "cffm",
        "decode_head.decoder_focal.",
        settings_of(CFFMConfig),
        lambda weights, settings: CFFM(infer_cffm(weights, settings)),
    ),
    Family(
        "mrcfa",
        "decode_head.hypercorre_module.",
        settings_of(MRCFAConfig),
        lambda weights, settings: MRCFA(infer_mrcfa(weights, settings)),
    ),
    Family(
        "mpvss",
        "motion.decoder.",
        settings_of(MPVSSConfig),
        lambda weights, settings: MPVSS(infer_mpvss(weights, settings)),
    ),
    Family(
        "mask2former",
        "sem_seg_head.predictor.",
        settings_of(Mask2FormerConfig),
        lambda weights, settings: Mask2Former(infer_mask2former(weights, settings)),
    ),
    Family(
        "videomt",
        "query_updater.",
        settings_of(VidEoMTConfig),
        lambda weights, settings: VidEoMT(infer_videomt(weights, settings)),
        encoder=encoder_of,
    ),
    Family(
        "upernet",
        "decode_head.fpn_bottleneck.",
        settings_of(UPerNetConfig),
        lambda weights, settings: UPerNet(infer_upernet(weights, settings)),
    ),
    Family(
        "segformer",
        ("decode_head.linear_pred.", "decode_head.fusion_conv."),
        settings_of(SegFormerConfig),
        lambda weights, settings: SegFormer(infer_segformer(weights, settings)),
    ),
)


@cache
def known_families() -> tuple[Family, ...]:
    """Our own families, and those of installed packages.

    Raises:
        CheckpointError: an entry point cannot be loaded, names no ``Family``, or a name is taken.
    """
    families = list(FAMILIES)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        where = f"entry point '{entry.name} = {entry.value}' of the group {GROUP}"
        try:
            loaded = entry.load()
        except Exception as error:
            raise CheckpointError(
                f"{where} cannot be loaded: {type(error).__name__}: {error}; repair or uninstall "
                "the package that has it"
            ) from error
        if not isinstance(loaded, Family):
            raise CheckpointError(
                f"{where} is {type(loaded).__name__}, expected a streamseg.export.Family"
            )
        if any(loaded.name == family.name for family in families):
            raise CheckpointError(f"{where}: there is already a family called '{loaded.name}'")
        families.append(loaded)
    return tuple(families)


def family_layouts() -> tuple[Layout, ...]:
    """How families of installed packages name their tensors."""
    return tuple(
        own_layout(family.name, [family.mark] if isinstance(family.mark, str) else family.mark)
        for family in known_families()[len(FAMILIES) :]
    )


def family_named(name: str) -> Family:
    """The family called ``name``.

    Raises:
        CheckpointError: there is none.
    """
    families = known_families()
    for family in families:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in families)
    raise CheckpointError(f"family is {name!r}, expected one of {known}")


def encoder_name(family: Family, weights: Mapping[str, Tensor]) -> str:
    """Name of a checkpoint's encoder, such as ``mit_b1``."""
    if family.encoder is not None:
        return family.encoder(weights)
    encoder = below(weights, "backbone.")
    if "stem.conv1.weight" in encoder:
        return infer_resnet(encoder).name
    return infer_encoder(encoder).name


def recognise(weights: Mapping[str, Any]) -> Family:
    """The family of a checkpoint, by its key names.

    Raises:
        CheckpointError: none fits; the message says what the checkpoint holds.
    """
    for family in known_families():
        if any(key.startswith(family.mark) for key in weights):
            return family
    known = ", ".join(family.name for family in known_families())
    raise CheckpointError(
        f"no known system has these keys: {summarise(weights)}. Expected one of: {known}"
    )

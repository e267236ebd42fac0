"""The published networks that can be imported, buildable with initial weights, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from streamseg.errors import ExportError
from streamseg.export.families import known_families
from streamseg.export.models.cffm import CFFM, CFFMConfig, CFFMPlus
from streamseg.export.models.convnext import CONVNEXT_PRESETS
from streamseg.export.models.encoder import ENCODER_PRESETS, EncoderConfig
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.mask2former import Mask2Former, Mask2FormerConfig, MaskEncoderConfig
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig
from streamseg.export.models.mrcfa import KEEP_RATIOS, MRCFA, ONE_LAYER, MRCFAConfig
from streamseg.export.models.resnet import RESNET_PRESETS
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.models.swin import SWIN_PRESETS
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.models.upernet import UPerNet, UPerNetConfig
from streamseg.export.models.videomt import VidEoMT, VidEoMTConfig
from streamseg.export.models.vit import VIT_PRESETS
from streamseg.export.palettes import read_classes
from streamseg.export.published import PublishedRow, rows_of
from streamseg.export.step import Size, StepModel
from streamseg.runtime.bundle.state import state_bytes

CLASSES = 124
EMBED_DIM = 256
# SegFormer decodes the larger encoders to more channels.
SEGFORMER_EMBED_DIMS = {"mit_b0": 256, "mit_b1": 256}
SEGFORMER_EMBED_DIM = 768
# Mining blocks; B0 has one.
CFFM_DEPTHS = {"mit_b0": 1, "mit_b1": 2, "mit_b2": 2, "mit_b5": 4}
TV3S_BLOCKS = BlocksConfig(EMBED_DIM, d_inner=2 * EMBED_DIM, dt_rank=EMBED_DIM // 16)
TWO_LAYER = tuple((name, layers * 2) for name, layers in ONE_LAYER.items())
UPERNET_WIDTH = 512
UPERNET_ENCODERS: dict[str, EncoderConfig] = {**SWIN_PRESETS, **CONVNEXT_PRESETS}
MASK_ENCODERS: dict[str, MaskEncoderConfig] = {**RESNET_PRESETS, **SWIN_PRESETS}

SEGFORMER_PAPER = "arXiv 2105.15203"
CFFM_PAPER = "arXiv 2204.03330v1"
CFFM_PLUS_PAPER = "arXiv 2204.03330v2"
MRCFA_PAPER = "arXiv 2207.10436"
TV3S_PAPER = "arXiv 2503.20824"
MASK2FORMER_PAPER = "arXiv 2112.01527"
UPERNET_PAPER = "arXiv 1807.10221"
MPVSS_PAPER = "arXiv 2310.18954"
VIDEOMT_PAPER = "CVPR 2026"
OURS = "not published"

# Encoders that TV3S was not published with.
OTHER_ENCODERS = ("convnext_t", "convnext_s", "convnext_b", *VIT_PRESETS)

# Width, layers and heads of the encoders that VidEoMT was published with.
VITS = {"vit_s": (384, 12, 6), "vit_b": (768, 12, 12), "vit_l": (1024, 24, 16)}


@dataclass(frozen=True)
class ModelRow:
    """A published network.

    Attributes:
        name: family and encoder, ``cffm/mit_b1``.
        build: makes it with initial weights for a number of classes.
        paper: where it was published.
    """

    name: str
    build: Callable[[int], StepModel]
    paper: str

    @property
    def published(self) -> tuple[PublishedRow, ...]:
        """What publications say of it."""
        return rows_of(self.name)


@dataclass(frozen=True)
class Cost:
    """What a network costs at a size.

    Attributes:
        parameters: of all tensors that are trained.
        gmacs: graph name -> 10^9 multiply-adds of one step (what papers call GFLOPs); matrix
            products and convolutions, the scan and elementwise work left out.
        encoder_gmacs: the encoder's part of these.
        attention_gmacs: the encoder's products of two activations, which some counters leave out.
        steady: graph name -> its share of the steps of a long stream.
        state_bytes: one stream's state.
    """

    parameters: int
    gmacs: dict[str, float]
    encoder_gmacs: dict[str, float]
    attention_gmacs: dict[str, float]
    steady: dict[str, float]
    state_bytes: int

    @property
    def frame_gmacs(self) -> float:
        """Mean over the graphs of a long stream: one key frame in five, and so on."""
        return sum(share * self.gmacs[graph] for graph, share in self.steady.items())

    @property
    def frame_attention_gmacs(self) -> float:
        """The mean of ``attention_gmacs``."""
        return sum(share * self.attention_gmacs[graph] for graph, share in self.steady.items())


def _segformer(encoder: str) -> Callable[[int], StepModel]:
    width = SEGFORMER_EMBED_DIMS.get(encoder, SEGFORMER_EMBED_DIM)
    return lambda classes: SegFormer(SegFormerConfig(ENCODER_PRESETS[encoder], width, classes))


def _cffm(kind: type[CFFM], encoder: str) -> Callable[[int], StepModel]:
    sizes, depth = ENCODER_PRESETS[encoder], CFFM_DEPTHS[encoder]
    return lambda classes: kind(CFFMConfig(sizes, EMBED_DIM, classes, depth=depth))


def _mrcfa(encoder: str) -> Callable[[int], StepModel]:
    sizes: EncoderConfig = ENCODER_PRESETS[encoder]
    stages = TWO_LAYER if encoder == "mit_b1" else tuple(ONE_LAYER.items())
    ratio = KEEP_RATIOS[encoder]
    return lambda classes: MRCFA(
        MRCFAConfig(sizes, EMBED_DIM, classes, keep_ratio=ratio, stages=stages)
    )


def _tv3s(encoder: str) -> Callable[[int], StepModel]:
    sizes = ENCODER_PRESETS[encoder]
    return lambda classes: TV3S(TV3SConfig(sizes, TV3S_BLOCKS, classes))


def _mask2former(encoder: str) -> Callable[[int], StepModel]:
    return lambda classes: Mask2Former(Mask2FormerConfig(MASK_ENCODERS[encoder], classes))


def _mpvss(encoder: str) -> Callable[[int], StepModel]:
    return lambda classes: MPVSS(MPVSSConfig(MASK_ENCODERS[encoder], classes))


def _upernet(encoder: str) -> Callable[[int], StepModel]:
    sizes = UPERNET_ENCODERS[encoder]
    return lambda classes: UPerNet(UPerNetConfig(sizes, UPERNET_WIDTH, classes))


def _videomt(encoder: str) -> Callable[[int], StepModel]:
    width, layers, heads = VITS[encoder]
    return lambda classes: VidEoMT(VidEoMTConfig(classes, width=width, layers=layers, heads=heads))


CATALOGUE: dict[str, ModelRow] = {
    entry.name: entry
    for entry in (
        *(
            ModelRow(f"segformer/mit_b{i}", _segformer(f"mit_b{i}"), SEGFORMER_PAPER)
            for i in range(6)
        ),
        *(
            ModelRow(f"tv3s/{name}", _tv3s(name), TV3S_PAPER)
            for name in ("mit_b0", "mit_b1", "mit_b2", "mit_b5")
        ),
        *(ModelRow(f"tv3s/{name}", _tv3s(name), TV3S_PAPER) for name in SWIN_PRESETS),
        *(ModelRow(f"tv3s/{name}", _tv3s(name), OURS) for name in OTHER_ENCODERS),
        *(ModelRow(f"cffm/{name}", _cffm(CFFM, name), CFFM_PAPER) for name in CFFM_DEPTHS),
        *(
            ModelRow(f"cffm++/{name}", _cffm(CFFMPlus, name), CFFM_PLUS_PAPER)
            for name in CFFM_DEPTHS
        ),
        *(ModelRow(f"mrcfa/{name}", _mrcfa(name), MRCFA_PAPER) for name in CFFM_DEPTHS),
        *(
            ModelRow(f"mask2former/{name}", _mask2former(name), MASK2FORMER_PAPER)
            for name in MASK_ENCODERS
        ),
        *(ModelRow(f"upernet/{name}", _upernet(name), UPERNET_PAPER) for name in UPERNET_ENCODERS),
        *(ModelRow(f"mpvss/{name}", _mpvss(name), MPVSS_PAPER) for name in MASK_ENCODERS),
        *(ModelRow(f"videomt/{name}", _videomt(name), VIDEOMT_PAPER) for name in VITS),
    )
}


def known_rows() -> dict[str, ModelRow]:
    """``CATALOGUE``, and the rows of families that installed packages add."""
    added = {
        name: ModelRow(name, build, family.paper)
        for family in known_families()
        for name, build in family.catalogue.items()
    }
    return {**added, **CATALOGUE}


def build_entry(name: str, *, classes: int = CLASSES, seed: int = 0) -> StepModel:
    """A network of the catalogue with initial weights and numbered classes.

    Raises:
        ExportError: there is no such entry.
    """
    rows = known_rows()
    if name not in rows:
        raise ExportError(f"'{name}' is not in the catalogue; it has: {', '.join(rows)}")
    torch.manual_seed(seed)
    model = rows[name].build(classes)
    model.classes = read_classes({}, classes)
    return model


def steady_shares(model: StepModel) -> dict[str, float]:
    """Graph name -> its share of the steps of a long stream."""
    rows = model.schedule()
    start, period = max(row.start for row in rows), max(row.every for row in rows)
    steps = range(start, start + period)
    graphs = [next(row.graph for row in reversed(rows) if row.holds(step)) for step in steps]
    return {graph: graphs.count(graph) / period for graph in dict.fromkeys(graphs)}


def _attention_flops(counted: Mapping[Any, int]) -> int:
    """Operations of an encoder's batched products: of attention, not of its linear layers."""
    names = ("bmm", "baddbmm", "scaled_dot_product")
    return sum(value for op, value in counted.items() if any(name in str(op) for name in names))


def measure_cost(name: str, size: Size, *, classes: int = CLASSES) -> Cost:
    """Count the parameters, multiply-adds and state of a network; nothing is computed.

    Raises:
        ExportError: there is no such entry, or it cannot run at this size.
    """
    with FakeTensorMode(), torch.no_grad():
        return count_cost(build_entry(name, classes=classes), size)


def count_cost(model: StepModel, size: Size) -> Cost:
    """``measure_cost`` of a network; computes where not under ``FakeTensorMode``. Freezes it.

    Raises:
        ExportError: it cannot run at this size.
    """
    model.check_size(size)
    table = {spec.name: spec for spec in model.state_spec(size)}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    folded = model.requires_grad_(False).fold()
    gmacs, encoder_gmacs, attention_gmacs = {}, {}, {}
    backbone = getattr(model, "backbone", None)
    encoder = type(backbone).__name__ if backbone is not None else ""
    for graph, plan in model.graphs(size).items():
        inputs = [
            torch.zeros(table[state].shape, dtype=getattr(torch, table[state].dtype))
            for state in plan.reads
            for _ in table[state].inputs(plan.ring_reads.get(state, 1))
        ]
        frame = torch.zeros((1, *size, 3), dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            folded.run_graph(graph, frame, *inputs)
        counts = counter.get_flop_counts()
        gmacs[graph] = counter.get_total_flops() / 2e9
        encoder_gmacs[graph] = sum(counts.get(encoder, {}).values()) / 2e9
        attention_gmacs[graph] = _attention_flops(counts.get(encoder, {})) / 2e9
    return Cost(
        parameters=parameters,
        gmacs=gmacs,
        encoder_gmacs=encoder_gmacs,
        attention_gmacs=attention_gmacs,
        steady=steady_shares(model),
        state_bytes=state_bytes(tuple(table.values())),
    )

"""ResNet's layouts; published (detectron2): ``backbone.stem.conv1``, ``res2.0.conv1.norm``."""

from __future__ import annotations

from streamseg.export.formats.renaming import Rule, same, table

PUBLISHED = same(
    "backbone.stem.conv1",
    "backbone.stem.conv1.norm",
    "backbone.res{s}.{b}.conv{i}",
    "backbone.res{s}.{b}.conv{i}.norm",
    "backbone.res{s}.{b}.shortcut",
    "backbone.res{s}.{b}.shortcut.norm",
)


def transformers(prefix: str) -> tuple[Rule, ...]:
    """ResNet in transformers, below ``prefix``."""
    layer = prefix + "encoder.stages.{s}.layers.{b}."
    ours = "backbone.res{s+2}.{b}."
    return (
        *table(
            prefix + "embedder.embedder.",
            "backbone.stem.",
            {"convolution": "conv1", "normalization": "conv1.norm"},
        ),
        *table(
            layer,
            ours,
            {
                "layer.{i}.convolution": "conv{i+1}",
                "layer.{i}.normalization": "conv{i+1}.norm",
                "shortcut.convolution": "shortcut",
                "shortcut.normalization": "shortcut.norm",
            },
        ),
    )


def timm(prefix: str) -> tuple[Rule, ...]:
    """ResNet of timm and torchvision, below ``prefix``."""
    return (
        Rule(prefix + "conv1", "backbone.stem.conv1"),
        Rule(prefix + "bn1", "backbone.stem.conv1.norm"),
        *table(
            prefix + "layer{s}.{b}.",
            "backbone.res{s+1}.{b}.",
            {
                "conv{i}": "conv{i}",
                "bn{i}": "conv{i}.norm",
                "downsample.0": "shortcut",
                "downsample.1": "shortcut.norm",
            },
        ),
    )

"""Synthetic street scenes: procedural, seeded, endless video with exact labels. No assets."""

from streamseg.scenes.scene import SceneFrame, SyntheticScene
from streamseg.scenes.scene_config import (
    PRESETS,
    SCENE_CLASSES,
    SCENES_VERSION,
    SceneConfig,
    parse_scene,
)

__all__ = [
    "PRESETS",
    "SCENES_VERSION",
    "SCENE_CLASSES",
    "SceneConfig",
    "SceneFrame",
    "SyntheticScene",
    "parse_scene",
]

"""Synthetic street scenes: procedural, seeded, endless video with exact labels. No assets."""

from .config import PRESETS, SCENE_CLASSES, SCENES_VERSION, SceneConfig, parse_scene
from .scene import SceneFrame, SyntheticScene

__all__ = [
    "PRESETS",
    "SCENES_VERSION",
    "SCENE_CLASSES",
    "SceneConfig",
    "SceneFrame",
    "SyntheticScene",
    "parse_scene",
]

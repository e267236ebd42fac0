"""Bundles: the manifest, the state table and the files of an exported network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.runtime.bundle.bundle import Bundle, read_bundle, read_manifest
    from streamseg.runtime.bundle.manifest import (
        ClassInfo,
        FrameSpec,
        GraphSpec,
        Manifest,
        PolicySpec,
        ScheduleRow,
        parse_manifest,
    )
    from streamseg.runtime.bundle.state import StateSnapshot, StateSpec

__all__ = [
    "Bundle",
    "ClassInfo",
    "FrameSpec",
    "GraphSpec",
    "Manifest",
    "PolicySpec",
    "ScheduleRow",
    "StateSnapshot",
    "StateSpec",
    "parse_manifest",
    "read_bundle",
    "read_manifest",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Bundle": "runtime.bundle.bundle",
        "ClassInfo": "runtime.bundle.manifest",
        "FrameSpec": "runtime.bundle.manifest",
        "GraphSpec": "runtime.bundle.manifest",
        "Manifest": "runtime.bundle.manifest",
        "PolicySpec": "runtime.bundle.manifest",
        "ScheduleRow": "runtime.bundle.manifest",
        "StateSnapshot": "runtime.bundle.state",
        "StateSpec": "runtime.bundle.state",
        "parse_manifest": "runtime.bundle.manifest",
        "read_bundle": "runtime.bundle.bundle",
        "read_manifest": "runtime.bundle.bundle",
    },
)

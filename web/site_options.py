"""What a static site holds: the options of ``streamseg web``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamseg.option_fields import option


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """What a site holds besides the bundle.

    Attributes:
        webgpu: also copy ONNX Runtime's build for graphics cards (27 MB).
        onnxruntime_web: folder of the npm package; None fetches it.
    """

    webgpu: bool = option(
        "Also include the build for graphics cards (27 MB).", default=False, common=True
    )
    onnxruntime_web: Path | None = option(
        "Unpacked npm package onnxruntime-web.",
        default=None,
        unset="fetched with npm",
        common=True,
    )

"""The synthetic street scene as a source: ``synthetic:street?seed=7&size=256x512&fps=25``."""

from __future__ import annotations

import math

from streamseg.errors import SourceError
from streamseg.runtime.sources.options import SourceAddress
from streamseg.runtime.sources.reader import Picture
from streamseg.scenes import SyntheticScene, parse_scene


class SceneReader:
    """Frames of a procedural scene, in order; see ``streamseg.scenes``.

    Raises:
        SourceError: the address names no preset, or a setting out of its range.
    """

    live = False
    corrupt = 0
    detail = "drawn"

    def __init__(self, address: SourceAddress) -> None:
        config = parse_scene(f"synthetic:{address.target}")
        self.fps = config.fps
        self._size = config.height, config.width
        first = math.ceil(address.options.start * config.fps)
        if config.frames is not None and first >= config.frames:
            raise SourceError(f"{address.name} has only {config.frames / config.fps:g} s")
        self.frame_count = None if config.frames is None else config.frames - first
        self._frames = SyntheticScene(config).frames(first)

    def read(self) -> Picture | None:
        """Draw the next frame."""
        drawn = next(self._frames, None)
        if drawn is None:
            return None
        return Picture(lambda: drawn.image, self._size, drawn.timestamp, truth=drawn.labels)

    def close(self) -> None:
        """Nothing is held open."""

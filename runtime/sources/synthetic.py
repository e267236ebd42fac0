"""The synthetic street scene as a source: ``synthetic:street?seed=7&size=256x512&fps=25``."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from streamseg.runtime.resize import Size
from streamseg.runtime.scenes import SyntheticScene, parse_scene
from streamseg.runtime.sources.frame import Frame


class SyntheticSource:
    """Frames of a procedural scene, in order; see ``streamseg.runtime.scenes``.

    Raises:
        SourceError: the address names no preset, or a setting out of its range.
    """

    def __init__(self, address: str) -> None:
        self.name = address
        self._config = parse_scene(address)
        self._closed = False

    @property
    def fps(self) -> float:
        """Frames a second of the scene's clock."""
        return self._config.fps

    @property
    def frame_count(self) -> int | None:
        """Frames asked for; None for an endless drive."""
        return self._config.frames

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self._config.height, self._config.width

    @property
    def corrupt(self) -> int:
        """Always 0: nothing is decoded."""
        return 0

    def __iter__(self) -> Iterator[Frame]:
        """Draw frame after frame."""
        for drawn in SyntheticScene(self._config).frames(0, self._config.frames):
            if self._closed:
                return
            yield Frame(drawn.image, drawn.index, drawn.timestamp)

    def close(self) -> None:
        """Stop drawing."""
        self._closed = True

    def __enter__(self) -> SyntheticSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

from __future__ import annotations

import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import open_source
from streamseg.scenes import SyntheticScene, parse_scene

ADDRESS = "synthetic:street?seed=3&size=48x64&fps=10&frames=4"


def test_source_yields_the_scene() -> None:
    scene = SyntheticScene(parse_scene(ADDRESS))
    with open_source(ADDRESS) as source:
        assert (source.fps, source.frame_count, source.size) == (10, 4, (48, 64))
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.timestamp for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    for frame in frames:
        assert np.array_equal(frame.image, scene.render(frame.index)[0])


def test_closed_source_stops() -> None:
    with open_source("synthetic:clean?size=48x64") as source:
        iterator = iter(source)
        next(iterator)
        source.close()
        assert next(iterator, None) is None


def test_wrong_addresses_are_reported() -> None:
    with pytest.raises(SourceError, match="mars"):
        open_source("synthetic:mars")

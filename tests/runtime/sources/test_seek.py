"""``--start`` begins with the first frame at or after that time, in every container."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from streamseg.errors import SourceError
from streamseg.runtime.sources import open_source
from streamseg.runtime.sources.options import SourceOptions
from tests.runtime.sources.ffmpeg_tool import needs_ffmpeg, number_of, numbered, write_raw

CASE = Path(__file__).parent / "cases" / "s.ts"
FRAMES, FPS = 300, 25
STARTS = (0.0, 0.04, 1.99, 2.0, 3.3, 5.3, 9.999, 11.5, 11.9)
GOP = ("-g", "50", "-keyint_min", "50", "-sc_threshold", "0")
CONTAINERS = {
    "ts": ("-c:v", "libx264", *GOP),
    "mp4": ("-c:v", "libx264", *GOP),
    "mkv": ("-c:v", "libx264", *GOP),
    "flv": ("-c:v", "libx264", *GOP),
    "mpg": ("-c:v", "mpeg2video", "-q:v", "2", "-g", "50"),
    "hevc.ts": (
        "-c:v",
        "libx265",
        "-x265-params",
        "keyint=50:log-level=none",
        "-preset",
        "ultrafast",
    ),
    "avi": ("-c:v", "mpeg4", "-q:v", "2", "-g", "50"),
    "m3u8": ("-c:v", "libx264", *GOP, "-hls_time", "2", "-hls_list_size", "0"),
}


def first_number(path: Path, start: float) -> int:
    with open_source(str(path), SourceOptions(start=start)) as source:
        return number_of(next(iter(source)).image)


@pytest.mark.parametrize(("start", "number"), [(0.0, 0), (2.0, 50), (5.3, 133), (11.9, 298)])
def test_transport_stream_case_starts_exactly(start: float, number: int) -> None:
    assert first_number(CASE, start) == number


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("seek")
    frames = numbered(FRAMES)
    return {
        kind: write_raw(frames, folder / f"clip.{kind}", *arguments)
        for kind, arguments in CONTAINERS.items()
    }


@needs_ffmpeg
@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_starts_exactly(kind: str, clips: dict[str, Path]) -> None:
    found = {start: first_number(clips[kind], start) for start in STARTS}
    assert found == {start: math.ceil(start * FPS - 1e-6) for start in STARTS}


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["ts", "mp4", "mpg"])
def test_start_after_the_end_is_an_error(kind: str, clips: dict[str, Path]) -> None:
    with pytest.raises(SourceError, match="no frame that decodes from 40 s on"):
        first_number(clips[kind], 40.0)

from __future__ import annotations

import functools
import http.server
import itertools
import logging
import threading
import time
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel, hwdevices_available

from streamseg.errors import SourceError
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.sources.hardware import _find_device
from streamseg.runtime.sources.streaming import FIRST_PAUSE, Backoff
from tests.runtime.clips import write_clip, write_folder

SCENE = "synthetic:clean?size=32x48&fps=10&frames=10"


@pytest.fixture(params=["video", "folder", "scene"])
def ten_frames(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A second of ten frames."""
    if request.param == "video":
        return str(write_clip(tmp_path / "clip.mp4", frames=10))
    if request.param == "folder":
        return str(write_folder(tmp_path / "images", [(12, 16)] * 10)) + "#fps=10"
    return SCENE


def numbers(uri: str, options: SourceOptions | None = None) -> list[float]:
    with open_source(uri, options) as source:
        return [round(frame.timestamp, 6) for frame in source]


def test_start_skips_earlier_frames(ten_frames: str) -> None:
    with open_source(ten_frames, SourceOptions(start=0.35)) as source:
        frames = list(source)
    assert [frame.timestamp for frame in frames] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert [frame.index for frame in frames] == list(range(6))
    with open_source(ten_frames) as source:
        whole = list(source)
    for frame, same in zip(frames, whole[4:], strict=True):
        np.testing.assert_array_equal(frame.image, same.image)


def test_start_after_the_end_is_reported(ten_frames: str) -> None:
    with pytest.raises(SourceError, match=r"has only|no frame that decodes from 5 s on"):
        open_source(ten_frames, SourceOptions(start=5))


def test_loop_restarts_and_time_continues(ten_frames: str) -> None:
    with open_source(ten_frames, SourceOptions(loop=True)) as source:
        assert source.frame_count is None
        frames = list(itertools.islice(source, 25))
    assert [frame.index for frame in frames] == list(range(25))
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(25) / 10)
    np.testing.assert_array_equal(frames[3].image, frames[23].image)


def test_loop_restarts_at_the_start_time(ten_frames: str) -> None:
    with open_source(ten_frames, SourceOptions(loop=True, start=0.8)) as source:
        frames = list(itertools.islice(source, 5))
    np.testing.assert_array_equal(frames[0].image, frames[2].image)
    assert [f.timestamp for f in frames] == pytest.approx([0.8, 0.9, 1.0, 1.1, 1.2])


@pytest.mark.parametrize(
    ("fps", "kept"), [(5, [0, 2, 4, 6, 8]), (3, [0, 3, 7]), (10, range(10)), (50, range(10))]
)
def test_rate_skips_frames(fps: float, kept: list[int], tmp_path: Path) -> None:
    for uri in (str(write_clip(tmp_path / "clip.mp4", frames=10)), SCENE):
        with open_source(uri, SourceOptions(fps=fps)) as source:
            assert source.fps == min(fps, 10)
            frames = list(source)
        assert source.frame_count == len(frames)
        found = [round(frame.timestamp * 10) for frame in frames]
        assert found == list(kept)
        assert source.passed_over == 10 - len(found)
        assert [frame.index for frame in frames] == list(range(len(found)))


def test_rate_of_a_folder_sets_its_times(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", [(12, 16)] * 3)
    with open_source(f"{folder}#fps=2") as source:
        assert source.fps == 2
        assert [frame.timestamp for frame in source] == [0.0, 0.5, 1.0]
        assert source.passed_over == 0


def test_realtime_gives_frames_when_they_are_due(ten_frames: str) -> None:
    with open_source(ten_frames, SourceOptions(realtime=True)) as source:
        assert source.live
        begin = time.monotonic()
        frames = list(source)
    assert time.monotonic() - begin >= 0.9
    first = frames[0].received
    for frame in frames:
        assert frame.received - first >= frame.timestamp - 0.001


@pytest.mark.parametrize("uri", ["987#start=1", "gst:videotestsrc#start=1"])
def test_live_source_has_no_start(uri: str) -> None:
    with pytest.raises(SourceError, match=r"no start|start is not for|no camera"):
        open_source(uri)


def test_missing_hardware_falls_back_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _find_device.cache_clear()
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    with open_source(str(clip)) as source:
        plain = [frame.image for frame in source]
        assert source.detail == "h264, software decoding"
    with (
        caplog.at_level(logging.WARNING),
        open_source(str(clip), SourceOptions(decode="auto")) as source,
    ):
        images = [frame.image for frame in source]
        if "software" not in source.detail:
            pytest.skip(f"this machine decodes in hardware: {source.detail}")
    assert source.detail.startswith("h264, software decoding, no hardware decoder here (")
    assert "software decoding, no hardware decoder here" in caplog.text
    np.testing.assert_array_equal(images, plain)


def test_failures_that_waiting_cannot_fix_end_at_once(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    server = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), server) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        address = f"http://127.0.0.1:{web.server_port}/{clip.name}#await-source"
        try:
            for option, message in (("decode=abacus", "no hardware"), ("live&start=1", "no start")):
                with pytest.raises(SourceError, match=message):
                    open_source(f"{address}&{option}")
        finally:
            web.shutdown()
            thread.join()


def test_device_that_fails_to_open_is_reported_and_software_decodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = next((name for name in hwdevices_available() if not works(name)), None)
    if device is None:
        pytest.skip("every device type that PyAV knows works here")
    broken = HWAccel(device, allow_software_fallback=True), f"{device} decoding"
    monkeypatch.setattr("streamseg.runtime.sources.ffmpeg.find_accelerator", lambda _: broken)
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    with open_source(str(clip)) as source:
        assert len(list(source)) == 3
    assert source.detail.startswith(f"h264, software decoding, {device} decoding ")
    assert "software decoding" in caplog.text


def works(device: str) -> bool:
    """Whether the machine has such a device."""
    try:
        HWAccel(device).create(av.Codec("h264", "r"))
    except (NotImplementedError, av.error.FFmpegError):
        return False
    return True


def test_unknown_hardware_is_rejected(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    with pytest.raises(SourceError, match="no hardware decoder of type 'abacus'"):
        open_source(f"{clip}#decode=abacus")


def test_pauses_double_up_to_the_limit_and_vary() -> None:
    backoff = Backoff(3.0)
    for expected in (FIRST_PAUSE, 1.0, 2.0, 3.0, 3.0):
        assert expected / 2 <= backoff.pause() <= expected
    backoff.reset()
    assert backoff.pause() <= FIRST_PAUSE
    assert len({Backoff(3.0).pause() for _ in range(10)}) > 1

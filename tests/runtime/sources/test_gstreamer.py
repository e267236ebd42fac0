from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.errors import SourceError
from streamseg.runtime.session.events import Event
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.sources.gstreamer import load_gstreamer
from tests.runtime.streams import RtspServer, read_until

# PyGObject's importer is of the old kind; its warnings cannot be fixed here.
pytestmark = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")
TEST = "videotestsrc pattern=red num-buffers=5 ! video/x-raw,width=50,height=30,framerate=10/1"


@pytest.fixture(autouse=True)
def _gstreamer() -> None:
    try:
        load_gstreamer()
    except SourceError as error:
        pytest.skip(str(error))


def test_pipeline_gives_its_frames_with_their_times() -> None:
    with open_source(f"gst:{TEST}") as source:
        assert (source.size, source.fps, source.live) == ((30, 50), 10.0, False)
        assert source.detail.startswith("GStreamer 1.")
        frames = list(source)
    assert [frame.timestamp for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    for frame in frames:
        assert frame.image.shape == (30, 50, 3)
        assert frame.image.flags.c_contiguous
        assert abs(frame.image.astype(int) - (255, 0, 0)).max() <= 3


def test_live_pipeline_is_live_and_comes_back() -> None:
    events: list[Event] = []
    uri = f"gst:{TEST.replace('videotestsrc', 'videotestsrc is-live=true')}"
    with open_source(uri, SourceOptions(backoff=0.1), on_event=events.append) as source:
        assert source.live
        frames = read_until(source, lambda frame: frame.index == 7)
    assert [event.kind for event in events] == ["lost", "back"]
    times = [frame.timestamp for frame in frames]
    assert times == sorted(times)


def test_pipeline_reads_a_camera_over_rtsp_and_hides_its_password() -> None:
    with RtspServer((96, 128), login=("joe", "s3cret")) as server:
        uri = (
            f"gst:rtspsrc location=rtsp://127.0.0.1:{server.port}/live protocols=tcp latency=0 "
            "user-id=joe user-pw=s3cret ! rtph264depay ! h264parse ! openh264dec"
        )
        with open_source(uri) as source:
            assert (source.live, source.size) == (True, (96, 128))
            assert "s3cret" not in source.name
            read_until(source, lambda frame: frame.index == 5)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("nosuchthing", 'no element "nosuchthing"'),
        ("filesrc location=/none/x ! decodebin", 'No such file "/none/x"'),
        ("fakesrc", "not-negotiated"),
        ("videotestsrc num-buffers=0", "ended before its first frame"),
        ("!", "syntax error"),
    ],
)
def test_failing_pipeline_is_reported(pipeline: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(f"gst:{pipeline}")


def test_silent_pipeline_times_out() -> None:
    with pytest.raises(SourceError, match=r"no frame for 0\.5 s"):
        open_source("gst:appsrc is-live=true#timeout=0.5")


def test_missing_pygobject_is_reported_with_the_package(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['gi'] = None\n"
        "from pathlib import Path\n"
        "from streamseg.runtime.sources import gstreamer, open_source\n"
        f"gstreamer.SYSTEM_PACKAGES = Path({str(tmp_path)!r})\n"
        "try:\n    open_source('gst:videotestsrc')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UnusableSource gst: sources need PyGObject for Python 3.")
    assert "run: apt install python3-gi" in done.stdout

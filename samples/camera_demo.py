"""Segment a camera, or any other source, in a window: samples/camera_demo.py BUNDLE [SOURCE].

--out FILE records instead, where OpenCV has no windows. Press q or Ctrl-C to end.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np

import streamseg
from streamseg.runtime.sinks import SegmentedFrame, Sink, VideoSink, WindowSink
from streamseg.runtime.video.overlay import Overlay


def show_stream(bundle: Path, source: str, out: Path | None, frames: int | None) -> str:
    """Run until the source or the viewer ends; gives what was shown, in words."""
    with streamseg.open(bundle) as stream, streamseg.open_source(source) as video:
        print(f"{video.name}: {video.size[0]}x{video.size[1]}; {stream.execution}")
        # The session forgets the state at scene cuts and gaps, and says so.
        session = streamseg.Session(stream, name=video.name, on_event=print)
        overlay = Overlay(stream.manifest.classes)
        sink: Sink
        sink = VideoSink(out, video.fps) if out else WindowSink(video.name, video.stop)
        try:
            for frame in islice(video, frames):
                labels = session.process(frame).labels
                picture = np.empty_like(frame.image)
                overlay.draw(frame.image, labels, picture)
                sink.write(SegmentedFrame(picture, labels, frame.index, frame.timestamp))
        except KeyboardInterrupt:
            pass
        return sink.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", nargs="?", default="0", help="camera number, file, rtsp://...")
    parser.add_argument("--out", type=Path, help="record to this .mp4 instead of a window")
    parser.add_argument("--frames", type=int, help="end after so many")
    arguments = parser.parse_args()
    try:
        print(show_stream(arguments.bundle, arguments.source, arguments.out, arguments.frames))
    except streamseg.StreamsegError as error:
        raise SystemExit(f"camera_demo: {error}") from None


if __name__ == "__main__":
    main()

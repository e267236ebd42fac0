"""Segment a camera, or any other source, in a window: samples/camera_demo.py BUNDLE [SOURCE].

Without a display, or without the extra [window], a web page is used. Press q or Ctrl-C to end.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import streamseg
from streamseg.serving import open_viewer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", help="folder, or hf:ORG/NAME of a bundle")
    parser.add_argument("source", nargs="?", default="0", help="camera number, file, rtsp://...")
    parser.add_argument("--out", help="record to this .mp4 instead")
    parser.add_argument("--frames", type=int, help="end after so many")
    arguments = parser.parse_args()
    try:
        with (
            streamseg.open_source(arguments.source) as video,
            streamseg.open(arguments.bundle) as stream,
            nullcontext(False) if arguments.out else open_viewer(stream) as viewer,
        ):
            print(f"{video.name}: {video.size[0]}x{video.size[1]}; {stream.execution}")
            # The state is reset at scene cuts and gaps; each reset is printed with its reason.
            report = stream.run(
                video,
                out=arguments.out,
                show=viewer,
                frames=arguments.frames,
                on_event=print,
            )
            print(*report.outputs, f"{report.fps:.1f} frames a second", sep="; ")
    except KeyboardInterrupt:
        pass
    except streamseg.StreamsegError as error:
        raise SystemExit(f"camera_demo: {error}") from None


if __name__ == "__main__":
    main()

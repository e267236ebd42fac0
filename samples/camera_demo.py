"""Segment a camera, or any other source, in a window: samples/camera_demo.py BUNDLE [SOURCE].

--out FILE records instead, where OpenCV has no windows. Press q or Ctrl-C to end.
"""

from __future__ import annotations

import argparse

import streamseg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", help="folder, or hf:ORG/NAME of a bundle")
    parser.add_argument("source", nargs="?", default="0", help="camera number, file, rtsp://...")
    parser.add_argument("--out", help="record to this .mp4 instead of a window")
    parser.add_argument("--frames", type=int, help="end after so many")
    arguments = parser.parse_args()
    try:
        with (
            streamseg.open_source(arguments.source) as video,
            streamseg.open(arguments.bundle) as stream,
        ):
            print(f"{video.name}: {video.size[0]}x{video.size[1]}; {stream.execution}")
            # The state is reset at scene cuts and gaps; each reset is printed with its reason.
            report = stream.run(
                video,
                out=arguments.out,
                show=arguments.out is None,
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

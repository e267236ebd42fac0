"""Write a video of two drawn drives, one after the other: samples/two_drives.py OUT.mp4."""

from __future__ import annotations

import argparse
from fractions import Fraction

import av

import streamseg

DRIVES = ("seed=2000003", "seed=2000011&daylight=0.9-0.95")


def write_drives(path: str, frames: int) -> None:
    """Encode ``frames`` of each drive, with no pause between them."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=Fraction(15), options={"crf": "18"})
        video.width, video.height, video.pix_fmt = 512, 256, "yuv420p"
        for drive in DRIVES:
            address = f"synthetic:clean?size=256x512&frames={frames}&{drive}"
            with streamseg.open_source(address) as source:
                for frame in source:
                    picture = av.VideoFrame.from_ndarray(frame.image, format="rgb24")
                    container.mux(video.encode(picture))
        container.mux(video.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="video to write (.mp4)")
    parser.add_argument("--frames", type=int, default=15, help="of each drive")
    arguments = parser.parse_args()
    write_drives(arguments.out, arguments.frames)


if __name__ == "__main__":
    main()

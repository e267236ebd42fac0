"""Information in the previous frame that this one lacks: an upper bound of the value of state.

    python benchmarks/state_value.py --camvid ROOT --checkpoint TV3S.pth --set window=10

A network segments every frame with its state reset. Its labels of the previous frame are warped to
this frame by optical flow, and so are the true labels. Where the warped labels are correct and the
network's own are wrong, a memory could help; an oracle takes the correct one of the two, if there
is one. Writes benchmarks/results/state_value.{json,md}.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if __package__:
    from benchmarks.measuring import RESULTS, describe_machine, write_results
else:
    from measuring import RESULTS, describe_machine, write_results

from streamseg.evaluation.datasets import VOID, Dataset, LabelledFrame, open_dataset
from streamseg.evaluation.metrics import class_iou, confusion
from streamseg.evaluation.optical_flow import FlowEstimator, warp
from streamseg.evaluation.segmenter import Segmenter, SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter

STREET = Path(__file__).resolve().parents[1] / "samples/street/street.safetensors"
Labels = NDArray[np.uint8]


@dataclass
class Tally:
    """Counts over the pixels that have a true label and a position in the previous frame."""

    classes: int
    confusions: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    pixels: int = 0
    outside: int = 0
    alone_wrong: int = 0
    repaired: int = 0
    spoilt: int = 0

    def add(self, label: Labels, guesses: dict[str, Labels], inside: NDArray[np.bool_]) -> None:
        """Add a frame: its label, the labels of each way, and where the flow stays inside."""
        known = label != VOID
        self.outside += int((known & ~inside).sum())
        seen = known & inside
        self.pixels += int(seen.sum())
        truth = np.where(seen, label, VOID)
        right = {name: (guess == label) & seen for name, guess in guesses.items()}
        alone, moved = right["alone"], right["moved"]
        self.alone_wrong += int((seen & ~alone).sum())
        self.repaired += int((moved & ~alone).sum())
        self.spoilt += int((alone & ~moved).sum())
        best = np.where(moved & ~alone, guesses["moved"], guesses["alone"])
        for name, guess in {**guesses, "oracle": best}.items():
            counts = confusion(guess, truth, self.classes)
            self.confusions[name] = self.confusions.get(name, 0) + counts

    def summary(self) -> dict[str, float]:
        """Percent."""
        found = {
            f"miou_{name}": float(np.nanmean(class_iou(counts)))
            for name, counts in self.confusions.items()
        }
        found["from_outside"] = self.outside / max(1, self.outside + self.pixels)
        found["alone_wrong"] = self.alone_wrong / max(1, self.pixels)
        found["repairable"] = self.repaired / max(1, self.alone_wrong)
        found["spoilt"] = self.spoilt / max(1, self.pixels - self.alone_wrong)
        return {name: round(100 * value, 2) for name, value in found.items()}


def study(segmenter: Segmenter, dataset: Dataset) -> dict[str, float]:
    """Tally the pairs of neighbouring labelled frames of every clip."""
    tally = Tally(len(dataset.classes))
    flow = FlowEstimator("dis")
    for clip in dataset.clips:
        before: tuple[LabelledFrame, Labels] | None = None
        for frame, guess in segment_alone(segmenter, clip):
            if frame.label is None:
                continue
            if before is not None and before[0].label is not None:
                motion = flow.estimate(frame.image, before[0].image)
                moved, inside = warp(before[1], motion)
                truth, _ = warp(before[0].label, motion)
                inside &= truth != VOID
                guesses = {"alone": guess, "moved": moved, "truth moved": truth}
                tally.add(frame.label, guesses, inside)
            before = (frame, guess)
    return tally.summary()


def segment_alone(segmenter: Segmenter, clip: Any) -> Iterator[tuple[LabelledFrame, Labels]]:
    """Each frame with the network's labels for it alone, at the size of the true labels."""
    for frame in clip:
        segmenter.reset()
        output = segmenter.step(frame.image)
        yield frame, output.labels_at(frame.image.shape[:2]).copy()


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = result["machine"]
    columns = {
        "miou_alone": "network alone",
        "miou_moved": "its labels of the frame before, moved",
        "miou_truth moved": "true labels of the frame before, moved",
        "miou_oracle": "oracle of alone and moved",
        "alone_wrong": "pixels alone wrong",
        "repairable": "of those, moved right",
        "spoilt": "of pixels alone right, moved wrong",
        "from_outside": "pixels from outside",
    }
    lines = [
        f"Percent; flow: DIS of OpenCV; {machine['processor']}, commit {machine['commit']}. "
        "The first four columns are mIoU over pixels that the flow finds in the frame before.",
        "",
        "| clips | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in result["clips"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[key]:.2f}" for key in columns) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--scenes", type=int, default=2, help="drawn drives of --frames frames")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", default="256x512", help="HxW of the drawn streets' network")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    drawn = f"synthetic:street?size=128x256&scenes={arguments.scenes}&frames={arguments.frames}"
    rows = {}
    with open_segmenter(STREET, SegmenterOptions(size=(height, width))) as segmenter:
        rows["drawn streets"] = study(segmenter, open_dataset(drawn, "test"))
    if arguments.camvid is not None:
        settings = dict(text.split("=", 1) for text in arguments.set)
        options = SegmenterOptions(size=(352, 480), settings=settings)
        with open_segmenter(arguments.checkpoint, options) as segmenter:
            for split, name in (("val", "val, 15 frames a second"), ("test", "test, one a second")):
                clips = open_dataset(f"camvid:{arguments.camvid}", split)
                rows[f"CamVid {name}"] = study(segmenter, clips)
                print(rows, flush=True)
    result = {"machine": describe_machine(1), "drawn": drawn, "clips": rows}
    write_results("state_value", result, table(result), arguments.results)


if __name__ == "__main__":
    main()

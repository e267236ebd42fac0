"""Accuracy of a stateful network whose labels are reused while the picture changes little.

    python benchmarks/adaptation.py --camvid ROOT --checkpoint TV3S.pth --set window=10

The drawn streets need neither. Writes benchmarks/results/adaptation.{json,md}.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, write_results
from scored_networks import (
    CAMVID_CLIPS,
    CAMVID_SIZE,
    STREET_CLIPS,
    STREET_SIZE,
    STREETS,
    load_camvid,
    load_street,
    make_parser,
)

import streamseg
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.scores import evaluate
from streamseg.evaluation.segmenter import Output, Segmenter
from streamseg.export import export_bundle
from streamseg.runtime.session.adaptation import Adaptation
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame

THRESHOLDS = (None, 16.0, 24.0, 40.0, 80.0)


class SessionSegmenter(Segmenter):
    """A bundle stepped by a session, so its policy applies."""

    def __init__(self, bundle: Path, settings: Adaptation) -> None:
        self.name = str(bundle)
        self._stream = streamseg.open(bundle, threads=1)
        self.classes = self._stream.manifest.classes
        self._settings = settings
        self.frames = self.carried = 0
        self._session = self._new_session()

    def _new_session(self) -> Session:
        policy = StatePolicy(adaptation=self._settings)
        return Session(self._stream, policy, on_event=lambda _event: None)

    def step(self, frame: np.ndarray[Any, Any]) -> Output:
        """Process the next frame; at thirty a second, so there is no gap."""
        result = self._session.process(
            Frame(frame, self._session.frames, self._session.frames / 30)
        )
        return Output(result.labels, result.placement, lambda: None)

    def reset(self) -> None:
        """Begin another clip."""
        self._count()
        self._stream.reset()
        self._session = self._new_session()

    def _count(self) -> None:
        self.frames += self._session.frames
        self.carried += self._session.carried

    def state(self) -> Mapping[str, Any]:
        """Copies of the state."""
        return self._stream.snapshot().tensors

    def close(self) -> None:
        """Count the last clip and close the stream."""
        self._count()
        self._stream.close()


def measure(bundle: Path, dataset: str, split: str) -> list[dict[str, Any]]:
    """One row per threshold."""
    rows = []
    for threshold in THRESHOLDS:
        segmenter = SessionSegmenter(bundle, Adaptation(carry_below=threshold))
        with segmenter:
            found = evaluate(segmenter, open_dataset(dataset, split)).scores
        rows.append(
            {
                "carry_below": threshold,
                "computed": 1 - segmenter.carried / segmenter.frames,
                "miou": found.miou,
                "mvc8": found.mvc[8],
            }
        )
        print(dataset.partition(":")[0], rows[-1], flush=True)
    return rows


def format_table(result: dict[str, Any]) -> str:
    """One row per threshold and set of clips."""
    lines = [
        "Labels carried on while little changes (`--carry-below`), up to eight frames in a row. "
        "Percent; "
        f"float32 bundles, `--backend auto`; {result['machine']['processor']}, commit "
        f"{result['machine']['commit']}.",
        "",
        "| clips | carry below | frames computed | mIoU | mVC8 |",
        "|---|---|---|---|---|",
    ]
    for name, rows in result["clips"].items():
        for row in rows:
            below = "off" if row["carry_below"] is None else f"{row['carry_below']:g}"
            figures = " | ".join(f"{100 * row[key]:.1f}" for key in ("computed", "miou", "mvc8"))
            lines.append(f"| {name} | {below} | {figures} |")
    lines += [
        "",
        "There are no trained weights of MPVSS here, so key frames by change (`--key-change`) have "
        "no figures.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    clips = {}
    with tempfile.TemporaryDirectory() as folder:
        street = Path(folder) / "street"
        export_bundle(load_street(), street, size=STREET_SIZE)
        clips[STREET_CLIPS] = measure(street, STREETS, "val")
        if arguments.camvid is not None:
            bundle = Path(folder) / "camvid"
            export_bundle(load_camvid(arguments), bundle, size=CAMVID_SIZE)
            dataset = f"camvid:{arguments.camvid}"
            clips[CAMVID_CLIPS] = measure(bundle, dataset, "val")
    result = {"machine": describe_machine(1), "streets": STREETS, "clips": clips}
    write_results("adaptation", result, format_table(result))


if __name__ == "__main__":
    main()

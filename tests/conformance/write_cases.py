"""Write the conformance set into this folder: python -m tests.conformance.write_cases."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

from streamseg.runtime.bundle.bundle import MANIFEST
from streamseg.runtime.video.resize import FitMode
from tests.conformance.cases import HEIGHT, WIDTH, Case, all_cases, play
from tests.conformance.operators import operator_cases

FOLDER = Path(__file__).parent / "data"
# Frame size, model size: wider, taller, equal, odd, larger and smaller than the model.
SIZES = (
    ((6, 10), (6, 10)),
    ((12, 20), (6, 10)),
    ((7, 9), (6, 10)),
    ((480, 640), (256, 512)),
    ((640, 480), (256, 512)),
    ((1080, 1920), (512, 1024)),
    ((101, 333), (96, 64)),
    ((1, 1), (6, 10)),
)


def write_case(case: Case, folder: Path, *, seed: int) -> None:
    """Write bundle, frames, labels and the list of actions."""
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    for name, content in case.files.items():
        (bundle / name).write_bytes(content)
    (bundle / MANIFEST).write_text(case.manifest().to_json(), encoding="utf-8")
    frames, labels = play(case, seed=seed)
    (folder / "frames.bin").write_bytes(frames.tobytes())
    (folder / "labels.bin").write_bytes(labels.tobytes())
    about = {
        "about": case.about,
        "steps": len(frames),
        "height": HEIGHT,
        "width": WIDTH,
        "actions": list(case.actions),
    }
    (folder / "case.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def geometry_table() -> list[dict[str, object]]:
    """Regions and nearest-neighbour indices, by rational arithmetic alone."""
    modes: tuple[FitMode, ...] = ("stretch", "letterbox")
    return [_geometry(frame, model, mode) for frame, model in SIZES for mode in modes]


def _geometry(frame: tuple[int, int], model: tuple[int, int], mode: FitMode) -> dict[str, object]:
    inner = model if mode == "stretch" else _fit(frame, model)
    top, left = (model[0] - inner[0]) // 2, (model[1] - inner[1]) // 2
    return {
        "frame": frame,
        "model": model,
        "resize": mode,
        "region": [top, top + inner[0], left, left + inner[1]],
        "rows": [top + (2 * i + 1) * inner[0] // (2 * frame[0]) for i in range(frame[0])],
        "columns": [left + (2 * i + 1) * inner[1] // (2 * frame[1]) for i in range(frame[1])],
    }


def _fit(frame: tuple[int, int], model: tuple[int, int]) -> tuple[int, int]:
    """The larger picture of the frame's aspect that fits; halves round to even."""
    scale = min(Fraction(model[0], frame[0]), Fraction(model[1], frame[1]))
    height, width = (max(1, round(extent * scale)) for extent in frame)
    return min(height, model[0]), min(width, model[1])


def write_all(folder: Path) -> None:
    """Write every case and ``geometry.json``; replaces what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    for seed, case in enumerate(all_cases()):
        write_case(case, folder / case.name, seed=seed)
    for case in operator_cases():  # one seed: their frames and labels are the same
        write_case(case, folder / case.name, seed=22)
    rows = ",\n".join(json.dumps(row) for row in geometry_table())
    (folder / "geometry.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write_all(FOLDER)

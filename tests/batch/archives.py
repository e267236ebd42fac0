"""Small archives of videos, and what ``streamseg run`` makes of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from streamseg.batch.jobs import Batch, BatchPlace
from streamseg.batch.work import BatchSettings, fingerprint_bundle
from streamseg.cli.main import run
from streamseg.runtime.video.resize import Image

SIZE = (48, 64)
Row = tuple[int, float, int, str, int]


def write_noise_clip(path: Path, *, seed: int, frames: int, cut: int | None = None) -> Path:
    """An H.264 file of smooth noise that moves slowly, other for every seed.

    From frame ``cut`` on it is the negative.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    width = SIZE[1] + frames
    coarse = rng.integers(0, 256, (4, width // 16, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (width, SIZE[0]), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            image = np.ascontiguousarray(wide[:, index : index + SIZE[1]])
            if cut is not None and index >= cut:
                image = 255 - image
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_archive(folder: Path, *, videos: int, frames: int = 10) -> dict[str, Path]:
    """Videos of ``frames`` frames and a few more, in two sub-folders; name -> path.

    The third of them has a scene cut.
    """
    names = [f"cam{index % 2}/{index:02d}.mp4" for index in range(videos)]
    return {
        name: write_noise_clip(
            folder / name,
            seed=index,
            frames=frames + index % 3,
            cut=frames // 2 if index == 2 else None,
        )
        for index, name in enumerate(names)
    }


def reference(bundle: Path, video: Path, folder: Path) -> list[Image]:
    """The label maps that ``streamseg run`` writes with one thread."""
    arguments = ["run", bundle, video, "--labels", folder, "--threads", 1]
    with pytest.raises(SystemExit) as stopped:
        run([str(argument) for argument in arguments])
    assert stopped.value.code == 0
    return read_labels(folder)


def read_labels(folder: Path) -> list[Image]:
    files = sorted(folder.glob("*.png"))
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(len(files))]
    return [np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)) for file in files]


def count_classes(bundle: Path, video: Path, labels: list[Image]) -> list[Row]:
    """The table that ``streamseg batch`` must write, from label maps and the video's own times."""
    _, manifest = fingerprint_bundle(bundle)
    names = {entry.id: entry.name for entry in manifest.classes}
    with av.open(str(video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    rows: list[Row] = []
    for index, (found, time) in enumerate(zip(labels, times, strict=True)):
        values, counts = np.unique(found, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            rows.append((index, time, value, names[value], count))
    return rows


def read_table(path: Path) -> list[Row]:
    from pyarrow import parquet

    columns = parquet.read_table(path).to_pydict()
    assert list(columns) == ["frame", "time", "class_id", "class", "pixels"]
    return list(zip(*columns.values(), strict=True))


def check_results(out: Path, bundle: Path, videos: dict[str, Path], scratch: Path) -> None:
    """Every video's results are those of ``streamseg run``, and nothing else is there."""
    for name, video in videos.items():
        wanted = reference(bundle, video, scratch / name)
        found = read_labels(out / name / "labels")
        assert len(found) == len(wanted) > 0
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(got, want)
        table = read_table(out / name / "classes.parquet")
        assert table == count_classes(bundle, video, wanted)
    folders = {path.parent.relative_to(out).as_posix() for path in out.rglob("done.json")}
    assert folders == set(videos)
    drafts = list(out.glob(".streamseg/drafts/*/*"))
    assert not drafts


def make_settings(bundle: Path, **changes: Any) -> BatchSettings:
    fingerprint, _ = fingerprint_bundle(bundle)
    return BatchSettings(bundle=str(bundle), fingerprint=fingerprint, **changes)


def make_batch(
    bundle: Path,
    patterns: str | list[str],
    out: Path | str,
    settings: BatchSettings,
    *,
    shard: tuple[int, int] = (0, 1),
    journal: Path | None = None,
    **options: Any,
) -> Batch:
    _, manifest = fingerprint_bundle(bundle)
    segmented = settings.segment is not None
    place = BatchPlace.below(str(out), shard=shard, journal=journal, segmented=segmented)
    listed = [patterns] if isinstance(patterns, str) else patterns
    return Batch(listed, place, settings, manifest, shard=shard, **options)


def read_journal(out: Path, name: str = "0-of-1") -> list[dict[str, Any]]:
    lines = (out / ".streamseg" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def count_done(out: Path, name: str = "0-of-1") -> Counter[str]:
    return Counter(line["key"] for line in read_journal(out, name) if line["kind"] == "done")

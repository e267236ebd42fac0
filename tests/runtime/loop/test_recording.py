"""``Stream.run`` writes what a loop of steps computes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import streamseg
from streamseg.errors import SinkError, SourceError
from tests.runtime.clips import read_clip, write_clip
from tests.runtime.toy import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=8)


def test_outputs_are_those_of_single_steps(bundle: Path, clip: Path, tmp_path: Path) -> None:
    with streamseg.open(bundle) as stream, streamseg.open_source(str(clip)) as video:
        stepped = [stream.step(frame.image) for frame in video]
        # The state of these steps is forgotten.
        report = stream.run(
            clip, out=tmp_path / "out.mp4", labels=tmp_path / "labels", areas=tmp_path / "a.jsonl"
        )
    assert report.frames == 8
    assert len(read_clip(tmp_path / "out.mp4")) == 8
    written = sorted((tmp_path / "labels").glob("*.png"))
    for path, result in zip(written, stepped, strict=True):
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), result.labels)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for line, result in zip(lines, stepped, strict=True):
        assert line["areas"] == pytest.approx(result.areas(), abs=1e-6)


def test_opened_source_stays_open_and_the_limit_holds(bundle: Path, clip: Path) -> None:
    with streamseg.open(bundle) as stream, streamseg.open_source(str(clip)) as video:
        report = stream.run(video, frames=3)
        assert (report.frames, stream.steps) == (3, 3)
        assert report.fps > 0


def test_events_reach_the_caller(bundle: Path, tmp_path: Path) -> None:
    events: list[streamseg.Event] = []
    dark, bright = np.zeros((48, 64, 3), np.uint8), np.full((96, 64, 3), 255, np.uint8)
    for index, image in enumerate([dark, dark, bright]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    with streamseg.open(bundle) as stream:
        stream.run(tmp_path, on_event=events.append)
    assert [event.cause for event in events if event.cause] == ["geometry"]


def test_mistakes_leave_nothing_behind(bundle: Path, clip: Path, tmp_path: Path) -> None:
    with streamseg.open(bundle) as stream:
        with pytest.raises(SourceError):
            stream.run(tmp_path / "none.mp4", out=tmp_path / "out.mp4")
        with pytest.raises(SinkError):
            stream.run(clip, out=tmp_path / "out.mp4", sheet=tmp_path / "sheet.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "odd", [{"out": ""}, {"out": "-"}, {"out": "o.mp4/"}, {"labels": "-"}, {"sheet": "s.jpg"}]
)
def test_paths_are_read_as_the_options_are(
    odd: dict[str, str], bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with streamseg.open(bundle) as stream, pytest.raises(SinkError, match="expected"):
        stream.run(clip, **odd)
    assert list(Path().iterdir()) == []

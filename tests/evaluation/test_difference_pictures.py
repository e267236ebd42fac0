"""Frames that a comparison keeps, and their pictures."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Pictures

from streamseg.cli.main import cli
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.difference_pictures import draw_difference, shown_classes
from streamseg.evaluation.drift import compare
from streamseg.evaluation.segmenter import Output, Segmenter
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.resize import whole_placement
from tests.evaluation.trees import SIZE, write_image

CLASSES = (
    ClassInfo(0, "road", (200, 10, 10)),
    ClassInfo(1, "car", (10, 10, 200)),
    ClassInfo(2, "sky", (1, 2, 3)),
)
WRONG = (0, 12, 3, 12, 5, 1)  # pixels that differ, by frame


class Scripted(Segmenter):
    """All road; some pixels are cars."""

    def __init__(self, name: str, wrong: tuple[int, ...]) -> None:
        self.name, self.classes, self.wrong, self.count = name, CLASSES, wrong, 0

    def step(self, frame):  # noqa: ARG002
        labels = np.zeros(SIZE, np.uint8)
        labels.reshape(-1)[: self.wrong[self.count]] = 1
        self.count += 1
        return Output(labels, whole_placement(SIZE), lambda: None)

    def reset(self):
        self.count = 0

    def state(self):
        return {}


@pytest.fixture
def comparison(tmp_path):
    for i in range(len(WRONG)):
        write_image(tmp_path / f"{i}.png", i)
    clip = open_dataset(f"footage:{tmp_path}").clips[0]
    return compare(Scripted("first", (0,) * 6), Scripted("second", WRONG), clip), clip


def test_first_worst_and_last_frames_are_kept(comparison) -> None:
    result, clip = comparison
    assert result.worst_frame == 1  # the first of equals
    assert [frame.index for frame in result.examples] == [0, 1, 5]
    for frame in result.examples:
        np.testing.assert_array_equal(frame.image, clip[frame.index].image)
        assert np.count_nonzero(frame.a != frame.b) == WRONG[frame.index]
        assert frame.agreement == result.frames[frame.index].agreement
    assert result.as_json()["agreement"]["worst_frame"] == 1
    assert shown_classes(result) == [("road", (200, 10, 10)), ("car", (10, 10, 200))]


def test_picture_shows_frame_labels_and_difference(comparison) -> None:
    result, _ = comparison
    picture = draw_difference(result.worst, result)
    assert picture.shape[1] == 4 * 320
    cells = [picture[18:, i * 320 : (i + 1) * 320] for i in range(4)]
    assert {tuple(color) for color in cells[1].reshape(-1, 3)} == {(200, 10, 10)}
    assert {tuple(color) for color in cells[2].reshape(-1, 3)} == {(200, 10, 10), (10, 10, 200)}
    red = (cells[3] == (220, 30, 30)).all(axis=2)
    np.testing.assert_array_equal(red, (cells[2] == (10, 10, 200)).all(axis=2))
    assert red.mean() == pytest.approx(12 / (SIZE[0] * SIZE[1]), rel=0.2)


def test_command_names_the_worst_frame_and_draws_it(tmp_path, bundle) -> None:
    from tests.evaluation.models import write_bundle

    other = write_bundle(tmp_path / "half", precision="fp16")
    plot = tmp_path / "drift.png"
    words = ["compare", str(bundle), str(other), "synthetic:easy?size=64x96", "--frames", "3"]
    done = CliRunner().invoke(cli, [*words, "--plot", str(plot)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "at worst (frame " in done.output.replace("\n", " ")
    with Pictures.open(plot) as picture:
        assert picture.width == 1000
        assert picture.height > 650

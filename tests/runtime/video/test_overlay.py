from __future__ import annotations

import numpy as np
import pytest

from streamseg.errors import SinkError
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.overlay import Overlay, draw_legend_panel

RED, BLUE = (200, 10, 10), (10, 20, 250)
TWO = (ClassInfo(0, "road", RED), ClassInfo(1, "sky", BLUE))


def many_classes(count: int) -> list[ClassInfo]:
    return [ClassInfo(i, f"class {i}", (i % 256, 200, 50)) for i in range(count)]


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_colours_are_blended_and_other_labels_left_alone(opacity: float) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (40, 50))
    out = np.empty_like(frame)
    Overlay(TWO, opacity=opacity, legend=False).draw(frame, labels, out)
    expected = frame.astype(float)
    for entry in TWO:
        place = labels == entry.id
        expected[place] = (1 - opacity) * expected[place] + opacity * np.array(entry.color)
    np.testing.assert_allclose(out, expected, atol=0.51)
    np.testing.assert_array_equal(out[labels > 1], frame[labels > 1])


def test_overlay_follows_a_change_of_size() -> None:
    overlay = Overlay(TWO)
    for size in [(64, 80), (40, 40), (64, 80)]:
        out = np.empty((*size, 3), np.uint8)
        overlay.draw(np.zeros((*size, 3), np.uint8), np.ones(size, np.uint8), out)
        np.testing.assert_array_equal(out[-1, -1], [5, 10, 125])


def test_legend_of_few_classes_names_all_from_the_first_frame() -> None:
    frame = np.zeros((120, 160, 3), np.uint8)
    out = np.empty_like(frame)
    Overlay(TWO, opacity=0).draw(frame, np.zeros((120, 160), np.uint8), out)
    panel = draw_legend_panel(TWO, (120, 160))
    height, width = panel.shape[:2]
    np.testing.assert_allclose(out[:height, :width], panel * 0.75, atol=1)
    assert not out[height:].any()
    assert not out[:, width:].any()
    for entry in TWO:
        assert (panel == entry.color).all(axis=2).any()


def test_legend_of_many_classes_grows_in_order_of_appearance_and_stays() -> None:
    classes = many_classes(150)
    overlay = Overlay(classes, opacity=0)
    frame = np.zeros((240, 320, 3), np.uint8)
    seen: list[int] = []
    for label in (140, 3, 140, 77):
        out = np.empty_like(frame)
        labels = np.full((240, 320), label, np.uint8)
        labels[0, :5] = 9  # too few pixels to enter
        overlay.draw(frame, labels, out)
        seen += [label] if label not in seen else []
        panel = draw_legend_panel([classes[i] for i in seen], (240, 320))
        height, width = panel.shape[:2]
        np.testing.assert_allclose(out[:height, :width], panel * 0.75, atol=1)
        assert not out[height:].any()


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (20, 5), (48, 64), (700, 30)])
def test_legend_never_exceeds_the_frame(size: tuple[int, int]) -> None:
    panel = draw_legend_panel(many_classes(60), size)
    assert panel.shape[0] <= size[0]
    assert panel.shape[1] <= size[1]
    out = np.empty((*size, 3), np.uint8)
    Overlay(many_classes(12)).draw(np.zeros_like(out), np.zeros(size, np.uint8), out)


@pytest.mark.parametrize("size", [(64, 96), (256, 512), (540, 960), (1080, 1920), (900, 400)])
@pytest.mark.parametrize("count", [2, 12, 19, 150])
def test_legend_covers_at_most_a_tenth_and_names_what_it_leaves_out(
    size: tuple[int, int], count: int
) -> None:
    classes = [ClassInfo(i, f"class number {i}", (i, 200, 50)) for i in range(count)]
    panel = draw_legend_panel(classes, size)
    assert panel.shape[0] * panel.shape[1] <= 0.1 * size[0] * size[1]
    swatches = sum((panel == entry.color).all(axis=2).any() for entry in classes)
    if size[0] >= 256 and count <= 12:
        assert swatches == count
    if size[0] >= 256:
        assert swatches >= 2


def test_opacity_out_of_range_is_refused() -> None:
    with pytest.raises(SinkError, match=r"opacity is 1\.5; expected 0 to 1"):
        Overlay(TWO, opacity=1.5)

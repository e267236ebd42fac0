"""The parts of reports, read back with Python's HTML parser and Pillow."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Pictures

from streamseg.evaluation import html_page
from streamseg.evaluation.html_page import heading, legend, note, page, paragraph, picture, table

HOSTILE = '<script>alert("x")</script>&amp;\'"'


class Reader(HTMLParser):
    """Collects texts, tags and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(
    "part",
    [
        heading(HOSTILE),
        paragraph(HOSTILE),
        note(HOSTILE),
        table(["head", HOSTILE], [[HOSTILE, "x"]]),
        legend([(HOSTILE, (1, 2, 3))]),
        picture(np.zeros((2, 2, 3), np.uint8), HOSTILE),
        page(HOSTILE, ["<p>x</p>"]),
    ],
)
def test_texts_stay_texts(part: str) -> None:
    read = Reader(part)
    assert "script" not in read.tags
    assert HOSTILE in read.texts


def test_picture_is_inside_and_keeps_its_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    (source,) = [v for v in Reader(picture(image, "x")).values if v.startswith("data:")]
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Pictures.open(io.BytesIO(content))), image)


def test_empty_parts_are_left_out() -> None:
    assert paragraph("") == note("") == ""
    assert page("title", ["", "<p>x</p>", ""]).endswith("<h1>title</h1>\n<p>x</p></html>\n")


def test_plot_without_matplotlib_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_page, "has_matplotlib", lambda: False)
    text = html_page.plot(lambda: pytest.fail("drawn"), "IoU")
    assert "IoU: no plot, because matplotlib is not installed" in text

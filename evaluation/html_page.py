"""Self-contained HTML for reports: tables, plots and pictures inside, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.evaluation.plots import has_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { margin: 1rem 0 }
figcaption { color: #555 }
img { max-width: 100% }
code { background: #f4f4f4; padding: 0 .2rem }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0 }
.legend i { display: inline-block; width: .9rem; height: .9rem; margin-right: .3rem;
            vertical-align: -.1rem; border: 1px solid #0003 }
.note { background: #fff4d6; padding: .4rem .8rem; border-left: 4px solid #e0a800 }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The document; empty parts are left out."""
    body = "\n".join(part for part in (heading(title, 1), *parts) if part)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{body}</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """A paragraph; empty where the text is."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def note(text: str) -> str:
    """A doubt about the figures, set apart; empty where the text is."""
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is aligned left."""

    def row(cells: Sequence[str], tag: str) -> str:
        joined = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{joined}</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def plot(draw: Callable[[], Figure], caption: str) -> str:
    """A figure of matplotlib, or a sentence where that is not installed."""
    if not has_matplotlib():
        return paragraph(f"{caption}: no plot, because matplotlib is not installed.")
    buffer = io.BytesIO()
    draw().savefig(buffer, format="png")
    return _figure(buffer.getvalue(), "png", caption)


def picture(image: Image, caption: str) -> str:
    """A (height, width, 3) uint8 RGB picture with its caption."""
    encoded, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert encoded
    shown = f"<figcaption>{html.escape(caption)}</figcaption>"
    return _figure(content.tobytes(), "png", caption, shown)


def _figure(content: bytes, kind: str, text: str, shown: str = "") -> str:
    data = base64.b64encode(content).decode("ascii")
    source = f"data:image/{kind};base64,{data}"
    return f'<figure><img alt="{html.escape(text)}" src="{source}">{shown}</figure>'


def legend(classes: Iterable[tuple[str, tuple[int, int, int]]]) -> str:
    """The (name, RGB) of classes as a list with colours."""
    entries = "".join(
        f'<li><i style="background:rgb({red},{green},{blue})"></i>{html.escape(name)}</li>'
        for name, (red, green, blue) in classes
    )
    return f'<ul class="legend">{entries}</ul>'

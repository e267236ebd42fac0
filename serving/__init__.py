"""The web page: live pictures, figures and buttons for every stream of a fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.serving.access import Access
    from streamseg.serving.live_page import LivePage, open_viewer
    from streamseg.serving.server import PageServer
    from streamseg.serving.view import StreamView

__all__ = [
    "Access",
    "LivePage",
    "PageServer",
    "StreamView",
    "open_viewer",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Access": "serving.access",
        "LivePage": "serving.live_page",
        "PageServer": "serving.server",
        "StreamView": "serving.view",
        "open_viewer": "serving.live_page",
    },
)

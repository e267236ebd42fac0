"""A bundle as a static web site: the runtime in TypeScript, its page, and what writes the site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.web.site import Site, write_site

__all__ = ["Site", "write_site"]

__getattr__, __dir__ = offer(__name__, {"Site": "web.site", "write_site": "web.site"})

"""From what the user typed to a source."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from streamseg.errors import SourceError
from streamseg.runtime.sources.camera import open_camera
from streamseg.runtime.sources.folder import FolderSource
from streamseg.runtime.sources.frame import Source
from streamseg.runtime.sources.video import VideoSource

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", re.DOTALL)


def _open_path(path: str) -> Source:
    return FolderSource(path) if Path(path).is_dir() else VideoSource(path)


def _open_file_uri(rest: str) -> Source:
    return _open_path(rest.removeprefix("//"))


def _open_scene(rest: str) -> Source:
    # Imported when asked for: the scene generator is large.
    from streamseg.runtime.sources.synthetic import SyntheticSource

    return SyntheticSource(f"synthetic:{rest}")


# Scheme -> what opens the text after its colon.
SCHEMES: dict[str, Callable[[str], Source]] = {
    "file": _open_file_uri,
    "synthetic": _open_scene,
}


def open_source(uri: str) -> Source:
    """Open a video file, a folder of images, or a camera by its number.

    Digits alone are a camera; a file of such a name is ``./0``.

    Raises:
        SourceError: nothing there, not readable as such, or no frame in it.
    """
    if re.fullmatch(r"[0-9]{1,4}", uri):
        return open_camera(int(uri))
    match = _SCHEME.fullmatch(uri)
    if match and not Path(uri).exists():
        scheme, rest = match[1].lower(), match[2]
        if scheme in SCHEMES:
            return SCHEMES[scheme](rest)
        if rest.startswith("//"):
            raise SourceError(
                f"source scheme '{scheme}:' is not known; expected a video file, a folder of "
                "images, a camera number, or one of " + ", ".join(f"{name}:" for name in SCHEMES)
            )
    return _open_path(uri)

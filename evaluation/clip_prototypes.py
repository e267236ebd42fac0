"""Prototypes of each clip for CFFM++: from the clip itself, from a file, or those of the bundle."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamseg.errors import DatasetError, StateMismatch
from streamseg.evaluation.clustering import (
    cluster,
    collect_tokens,
    prototype_state,
    sample_frames,
)
from streamseg.evaluation.datasets import Clip, IndexedClip
from streamseg.evaluation.segmenter import BundleSegmenter, Segmenter
from streamseg.files import make_folder, whole_file
from streamseg.runtime.bundle.manifest import FILE_INIT

CLIP, STORED = "clip", "stored"
Floats = NDArray[np.float32]


class PrototypeSource(ABC):
    """Where the prototypes of a clip come from.

    Attributes:
        name: shown in tables.
        causal: whether they can be known before the clip is seen.
    """

    name: str
    causal: bool

    @abstractmethod
    def find(self, segmenter: BundleSegmenter, clip: Clip) -> Floats:
        """Prototypes ``[P, E]`` of a clip; the segmenter's state may be lost.

        Raises:
            DatasetError: a file is missing or damaged, or the clip cannot be sampled.
            StateMismatch: of another shape than the bundle's.
        """


class OwnPrototypes(PrototypeSource):
    """Centres of the clip's own tokens, as published: the whole clip is seen beforehand.

    Args:
        seed: of the clustering.
        cache: folder to keep them in, ``<clip>.npy``; None computes them every time.
    """

    name = CLIP
    causal = False

    def __init__(self, *, seed: int = 0, cache: Path | None = None) -> None:
        self._seed = seed
        self._cache = cache

    def find(self, segmenter: BundleSegmenter, clip: Clip) -> Floats:
        """See ``PrototypeSource.find``."""
        path = None if self._cache is None else self._cache / f"{flat_name(clip.name)}.npy"
        if path is not None and path.is_file():
            return read_array(path)
        if not isinstance(clip, IndexedClip):
            raise DatasetError(f"clip {clip.name} is a video, whose frames cannot be sampled")
        images = [clip[index].image for index in sample_frames(len(clip))]
        spec, _ = prototype_state(segmenter.stream.manifest)
        centres = cluster(collect_tokens(segmenter.stream, images), spec.shape[0], seed=self._seed)
        if path is not None:
            make_folder(path.parent, DatasetError)
            with whole_file(path, DatasetError) as draft, draft.open("wb") as file:
                np.save(file, centres, allow_pickle=False)
        return centres


class FilePrototypes(PrototypeSource):
    """A file for each clip, ``<clip>.npy`` or ``<clip>.npz`` with one array."""

    causal = False

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"prototypes {folder}: expected a folder with a file for each clip")
        self.name = str(folder)
        self._folder = folder

    def find(self, segmenter: BundleSegmenter, clip: Clip) -> Floats:  # noqa: ARG002
        """See ``PrototypeSource.find``."""
        places = [self._folder / f"{flat_name(clip.name)}{suffix}" for suffix in (".npy", ".npz")]
        for path in places:
            if path.is_file():
                return read_array(path)
        raise DatasetError(f"clip {clip.name} has no prototypes: expected {places[0]} or .npz")


class StoredPrototypes(PrototypeSource):
    """Those in the bundle, from similar footage: what a live stream can have."""

    name = STORED
    causal = True

    def find(self, segmenter: BundleSegmenter, clip: Clip) -> Floats:  # noqa: ARG002
        """See ``PrototypeSource.find``."""
        spec, _ = prototype_state(segmenter.stream.manifest)
        if not spec.init.startswith(FILE_INIT):
            raise StateMismatch(
                "the bundle holds no prototypes: run streamseg prototypes BUNDLE VIDEO"
            )
        return read_array(segmenter.path / spec.init.removeprefix(FILE_INIT))


def flat_name(name: str) -> str:
    """A clip's name as a file's."""
    return name.replace("/", "__")


def read_array(path: Path) -> Floats:
    """The one array of a file as float32 ``[P, E]``.

    Raises:
        DatasetError: damaged, of pickled objects, or of several arrays.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                if len(content.files) != 1:
                    raise DatasetError(f"{path} holds {len(content.files)} arrays, expected one")
                content = content[content.files[0]]
        return np.asarray(content, np.float32)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"prototypes {path} cannot be read: {error}") from error


def parse_source(text: str, *, cache: Path | None = None, seed: int = 0) -> PrototypeSource:
    """``clip``, ``stored`` or a folder."""
    if text == CLIP:
        return OwnPrototypes(seed=seed, cache=cache)
    return StoredPrototypes() if text == STORED else FilePrototypes(Path(text))


def give_prototypes(segmenter: Segmenter, clip: Clip, *, source: PrototypeSource) -> None:
    """Set a bundle's prototypes for a clip, and reset it.

    Raises:
        StateMismatch: not a bundle of CFFM++, or prototypes of another shape.
    """
    if not isinstance(segmenter, BundleSegmenter):
        raise StateMismatch(f"{segmenter.name} is not a bundle: export it to give it prototypes")
    stream = segmenter.stream
    spec, _ = prototype_state(stream.manifest)
    centres = source.find(segmenter, clip)
    if centres.shape != spec.shape:
        raise StateMismatch(
            f"prototypes of clip {clip.name} have the shape {list(centres.shape)}, expected "
            f"{list(spec.shape)}"
        )
    stream.give(spec.name, centres)
    stream.reset()

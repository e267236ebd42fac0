"""Prototypes of a video: the cluster centres that CFFM++ attends to (TPAMI 2024, section 3)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.errors import SourceError, StateMismatch
from streamseg.option_fields import option
from streamseg.runtime.bundle.bundle import MANIFEST, digest, new_bundle, read_bundle
from streamseg.runtime.bundle.manifest import FILE_INIT, Manifest
from streamseg.runtime.bundle.state import StateSpec
from streamseg.runtime.sources import open_source
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.resize import Image

FRAMES = 10
ITERATIONS = 10

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClusteringOptions:
    """How prototypes are found.

    Attributes:
        samples: frames that tokens are taken from.
        seed: of the first centres.
    """

    samples: int = option("Number of frames to sample.", default=FRAMES, low=1, common=True)
    seed: int = option("Seed of random choices.", default=0, common=True)


def sample_frames(count: int, wanted: int = FRAMES) -> list[int]:
    """Which of ``count`` frames are looked at: ``floor((i + 0.5) * floor(count / wanted))``.

    Fewer frames than wanted are all taken.
    """
    if count <= wanted:
        return list(range(count))
    return [int((i + 0.5) * (count // wanted)) for i in range(wanted)]


def read_sampled(uri: str, wanted: int = FRAMES) -> tuple[list[Image], int]:
    """The sampled frames of a source, and how many frames it has.

    Raises:
        SourceError: it cannot be read, or has no end.
    """
    with open_source(uri) as source:
        if source.frame_count is None:
            raise SourceError(f"{uri} has no end; prototypes need a video file or a folder")
        # What a container says of its length may be wrong, so frames are counted.
        count = sum(1 for _ in source)
    places = sample_frames(count, wanted)
    with open_source(uri) as source:
        images = [frame.image for frame in source if frame.index in places]
    return images, count


def prototype_state(manifest: Manifest) -> tuple[StateSpec, StateSpec]:
    """The given state that takes prototypes, and the ring whose maps they are centres of.

    Raises:
        StateMismatch: the bundle has no such state.
    """
    given = [spec for spec in manifest.state if spec.kind == "given"]
    for spec in given:
        for ring in manifest.state:
            if ring.kind == "ring" and len(ring.shape) == 4 and ring.shape[1] == spec.shape[-1]:
                return spec, ring
    family = manifest.model.get("family", "this model")
    raise StateMismatch(f"{family} takes no prototypes; only CFFM++ bundles have that state")


def collect_tokens(stream: Stream, frames: Sequence[npt.NDArray[np.uint8]]) -> Floats:
    """Tokens ``[n, C]`` of the frames' reduced maps, each frame taken as the first of a video."""
    spec, ring = prototype_state(stream.manifest)
    # The first frame of a video reads no prototypes, so any will do here.
    stream.give(spec.name, np.zeros(spec.shape, dtype=spec.dtype))
    found = []
    for frame in frames:
        stream.reset()
        stream.step(frame)
        maps = stream.snapshot().tensors[ring.name][ring.write_index(0)][0]
        found.append(maps.reshape(maps.shape[0], -1).T)
    stream.reset()
    return np.ascontiguousarray(np.concatenate(found), dtype=np.float32)


def cluster(tokens: Floats, count: int, *, seed: int = 0) -> Floats:
    """Centres ``[count, C]`` by k-means: Euclidean, from random tokens, 10 iterations at most.

    Raises:
        StateMismatch: fewer tokens than centres.
    """
    if len(tokens) < count:
        raise StateMismatch(f"{len(tokens)} tokens cannot make {count} prototypes; use more frames")
    picked = np.random.default_rng(seed).choice(len(tokens), count, replace=False)
    start = tokens[picked]
    distances = (start**2).sum(1)[None] - 2 * tokens @ start.T
    labels = np.ascontiguousarray(distances.argmin(1).astype(np.int32)[:, None])
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, ITERATIONS, 0.0)
    arguments: Any = (tokens, count, labels, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    _, _, centres = cv2.kmeans(*arguments)
    return np.asarray(centres, dtype=np.float32)


def store_given(path: Path, name: str, content: npt.NDArray[np.generic]) -> None:
    """Put the values of a given state into the bundle at ``path``, replacing older ones."""
    bundle = read_bundle(path)
    file = f"{name}.npy"
    buffer = BytesIO()
    np.save(buffer, content, allow_pickle=False)
    table = tuple(
        replace(spec, init=FILE_INIT + file) if spec.name == name else spec
        for spec in bundle.manifest.state
    )
    files = {**bundle.manifest.files, file: digest(buffer.getvalue())}
    with new_bundle(path) as folder:
        for entry in bundle.manifest.files:
            if entry != file:
                (folder / entry).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path / entry, folder / entry)
        (folder / file).write_bytes(buffer.getvalue())
        manifest = replace(bundle.manifest, state=table, files=files)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")

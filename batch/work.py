"""The work list: which videos there are, which part is this shard's, and the tasks they make."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamseg.destinations import FOLDER
from streamseg.errors import BatchError, SourceError
from streamseg.installation import install_command
from streamseg.option_fields import check_options, option
from streamseg.runtime.bundle.bundle import digest, read_bundle
from streamseg.runtime.bundle.manifest import Manifest

MAGIC = "*?["
DEFAULT_OVERLAP = 32  # measured: benchmarks/results/seams.md
# What distinguishes one version of a file from the next, as file systems name it.
STAMPS = ("ETag", "etag", "CRC", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What is written for a video, and how it is split.

    Raises:
        BatchError: a value is out of its range.
    """

    label_maps: bool = option("Write label maps, one 8-bit PNG per frame.", default=True)
    overlay: bool = option("Write an overlay video, H.264.", default=False, common=True)
    segment: int | None = option(
        "Split videos into segments of N frames.", default=None, low=1, metavar="N"
    )
    overlap: int = option(
        "Frames before a segment on which its state converges.", default=DEFAULT_OVERLAP, low=0
    )

    def __post_init__(self) -> None:
        check_options(self, BatchError)


@dataclass(frozen=True, kw_only=True)
class BatchRunOptions:
    """How the work is run, and which part of it.

    Raises:
        BatchError: a value is out of its range.
    """

    workers: int | None = option(
        "Worker processes; 0 works in this process.",
        default=None,
        low=0,
        unset="cores / threads",
        common=True,
    )
    gpus: float = option("GPUs of one worker on Ray, such as 0.5.", default=0.0, low=0)
    shard: str = option("Process part I of N of the videos.", default="0/1", metavar="I/N")
    attempts: int = option("Worker crashes after which a video is set aside.", default=3, low=1)
    retry: bool = option("Retry videos that were set aside.", default=False)
    journal: Path | None = option(
        "Folder of the journal.", default=None, unset="inside the output", written=FOLDER
    )

    def __post_init__(self) -> None:
        check_options(self, BatchError)


@dataclass(frozen=True)
class BatchSettings:
    """What decides the results; a change of any of it repeats finished work.

    Attributes:
        bundle: its folder, absolute.
        fingerprint: SHA-256 over the bundle's manifest and graphs.
        backend, native, library, engine, device, precision, letterbox, threads: as for
            ``streamseg.open``.
        gap_reset, scene_cut: as for ``StatePolicy``.
        labels: write label maps.
        video: write an overlay video.
        segment: frames of a segment; ``None`` leaves videos whole.
        overlap: frames before a segment on which its state converges.
    """

    bundle: str
    fingerprint: str
    backend: str = "auto"
    native: bool | None = None
    library: str | None = None
    engine: str | None = None
    device: str | None = None
    precision: str | None = None
    letterbox: bool | None = None
    threads: int = 1
    gap_reset: float | None = 1.0
    scene_cut: float | None = None
    labels: bool = True
    video: bool = False
    segment: int | None = None
    overlap: int = 0

    @property
    def identity(self) -> str:
        """Digest of everything here but the bundle's place."""
        fields = {name: value for name, value in asdict(self).items() if name != "bundle"}
        return digest(json.dumps(fields, sort_keys=True).encode())


@dataclass(frozen=True)
class Video:
    """A file to segment.

    Attributes:
        name: path below the pattern's fixed part; names the folder of its results.
        url: for fsspec.
        size: bytes, where the file system knows.
        stamp: what changes with the content: a checksum or time.
    """

    name: str
    url: str
    size: int | None
    stamp: str


@dataclass(frozen=True)
class Task:
    """A video or a segment of it.

    Attributes:
        video: name of the video.
        url: for fsspec.
        identity: digest of video, settings and range: equal tasks have equal results.
        target: folder of its results, for fsspec.
        drafts: folder for results in the making; local.
        first: index of the first frame kept.
        stop: index after the last frame kept; ``None`` for the video's end.
        warm: index of the first frame stepped; results before ``first`` are discarded.
    """

    video: str
    url: str
    identity: str
    target: str
    drafts: str
    first: int = 0
    stop: int | None = None
    warm: int = 0

    @property
    def key(self) -> str:
        """Name in the journal."""
        whole = self.first == 0 and self.stop is None
        return self.video if whole else f"{self.video}#{self.first}"


def import_fsspec() -> Any:
    """The fsspec package.

    Raises:
        BatchError: it is not installed.
    """
    try:
        return importlib.import_module("fsspec")
    except ImportError as error:
        raise BatchError(
            f"a batch needs fsspec ({error}). Run: {install_command('batch')}"
        ) from None


def open_filesystem(url: str) -> tuple[Any, str]:
    """File system and path of a URL or pattern.

    Raises:
        BatchError: no such protocol, or its package is not installed.
    """
    fsspec = import_fsspec()
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise BatchError(f"cannot open '{url}': {error}") from None
    return filesystem, path


def is_local(filesystem: Any) -> bool:
    """Whether paths of the file system are this machine's."""
    return bool(getattr(filesystem, "local_file", False))


def fingerprint_bundle(path: Path) -> tuple[str, Manifest]:
    """SHA-256 over all that a bundle computes and says, and its manifest."""
    bundle = read_bundle(path)
    content = f"{bundle.identity}\n{bundle.manifest.to_json()}"
    return digest(content.encode()), bundle.manifest


def list_videos(patterns: Sequence[str]) -> list[Video]:
    """Every file that matches, sorted by name.

    Raises:
        SourceError: a pattern matches nothing or a folder, or two files would share a name.
        BatchError: a pattern's protocol is not known.
    """
    found: dict[str, Video] = {}
    for pattern in patterns:
        for video in _match(pattern):
            other = found.setdefault(video.name, video)
            if other.url != video.url:
                raise SourceError(
                    f"{other.url} and {video.url} would both write '{video.name}'; give one "
                    "pattern above both, or run two batches into two folders"
                )
    return [found[name] for name in sorted(found)]


def _match(pattern: str) -> list[Video]:
    filesystem, path = open_filesystem(pattern)
    parts = path.split("/")
    fixed = next((i for i, part in enumerate(parts) if set(part) & set(MAGIC)), len(parts) - 1)
    base = "/".join(parts[:fixed])
    try:
        if set(path) & set(MAGIC):
            entries = filesystem.glob(path, detail=True)
        else:
            entries = {path: filesystem.info(path)}
    except OSError:
        entries = {}
    files = {name: info for name, info in entries.items() if info["type"] == "file"}
    if not files:
        folder = f"; {path} is a folder, write {path}/*.mp4" if path in entries else ""
        raise SourceError(f"no file matches '{pattern}'{folder}")
    tail = pattern.partition("::")
    odd = next((name for name in files if "::" in name), None)
    if odd is not None:
        raise SourceError(f"'{odd}' has '::' in its name, which joins URLs; rename it")
    return [
        Video(
            name=posixpath.relpath(name, base) if base else name.lstrip("/"),
            url=filesystem.unstrip_protocol(name) + tail[1] + tail[2],
            size=info.get("size"),
            stamp=_stamp(info),
        )
        for name, info in files.items()
    ]


def _stamp(info: Mapping[str, Any]) -> str:
    return next((f"{key}={info[key]}" for key in STAMPS if info.get(key) is not None), "")


def parse_shard(text: str) -> tuple[int, int]:
    """``i/N`` to ``(i, N)``, i from 0.

    Raises:
        BatchError: it is not of that form, or i is not below N.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise BatchError(f"shard is '{text}', expected i/N with i from 0 to N-1, such as 0/4")
    return int(index), int(count)


def choose_shard(videos: Iterable[Video], index: int, count: int) -> list[Video]:
    """The videos of one shard. A video's shard depends on its name alone, not on the others."""

    def shard(video: Video) -> int:
        return int(hashlib.sha256(video.name.encode()).hexdigest(), 16) % count

    return [video for video in videos if shard(video) == index]


def count_frames(video: Video) -> int | None:
    """Frames that the file's header claims; ``None`` where it does not say or cannot be read."""
    import av
    import av.error

    filesystem, path = open_filesystem(video.url)
    try:
        with filesystem.open(path, "rb") as file, av.open(file) as container:
            return container.streams.video[0].frames or None
    except (OSError, IndexError, av.error.FFmpegError):
        return None


def schedule_period(manifest: Manifest) -> int:
    """Steps after which a schedule repeats: a segment must begin on a multiple."""
    return math.lcm(*(row.every for row in manifest.schedule))


def cut_video(
    video: Video,
    settings: BatchSettings,
    manifest: Manifest,
    *,
    target: str,
    state: str,
    drafts: str,
) -> list[Task]:
    """The tasks of a video: one, or one a segment.

    Segments begin every ``settings.segment`` frames; each but the first is warmed up on
    ``settings.overlap`` frames, a few more where the schedule demands it. The last one is open:
    it takes what the video holds, whatever its header claims.

    Args:
        video: from ``list_videos``.
        settings: of the batch.
        manifest: of the bundle.
        target: folder of the video's results.
        state: folder for the results of segments until all are there.
        drafts: folder for results in the making.
    """
    claimed = count_frames(video) if settings.segment else None
    if settings.segment is None or claimed is None or claimed <= settings.segment:
        identity = _identify(video, settings, 0, None)
        return [Task(video.name, video.url, identity, target, drafts)]
    period = schedule_period(manifest)
    overlap = settings.overlap if manifest.state else 0
    starts = range(0, claimed, settings.segment)
    tasks = []
    for first in starts:
        stop = None if first == starts[-1] else first + settings.segment
        warm = max(0, first - overlap) // period * period
        tasks.append(
            Task(
                video.name,
                video.url,
                _identify(video, settings, first, stop),
                f"{state}/{video.name}/{first:08d}",
                drafts,
                first,
                stop,
                warm,
            )
        )
    return tasks


def identify_video(video: Video, settings: BatchSettings) -> str:
    """Digest of a video's content stamp and the settings."""
    return _identify(video, settings, 0, None)


def _identify(video: Video, settings: BatchSettings, first: int, stop: int | None) -> str:
    fields = [video.name, video.url, video.size, video.stamp, settings.identity, first, stop]
    return digest(json.dumps(fields).encode())

"""Results: written beside their target, then renamed, so that an existing folder is complete."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamseg.batch.tables import ClassTable
from streamseg.batch.work import Task, is_local, open_filesystem
from streamseg.errors import SinkError
from streamseg.files import put_in_place
from streamseg.runtime.bundle.manifest import ClassInfo

DONE = "done.json"
TABLE = "classes.parquet"
LABELS = "labels"
OVERLAY = "overlay.mp4"


def new_draft(drafts: str) -> Path:
    """An empty folder to write results into.

    Raises:
        SinkError: it cannot be made.
    """
    path = Path(drafts) / uuid.uuid4().hex
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise SinkError(f"cannot write into {drafts}: {error.strerror}") from None
    return path


def read_done(target: str) -> dict[str, Any] | None:
    """What the ``done.json`` of a results folder says; ``None`` where there is none whole."""
    filesystem, path = open_filesystem(target)
    try:
        content = json.loads(filesystem.cat_file(posixpath.join(path, DONE)))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_complete(target: str, identity: str) -> bool:
    """Whether the results of just this work are at their place."""
    done = read_done(target)
    return done is not None and done.get("identity") == identity


def publish(draft: Path, target: str, report: dict[str, Any]) -> None:
    """Put a finished draft at its place; results of other work there are replaced.

    Where the same work is there already, by another worker, that stays and the draft is removed.
    On this machine it is one rename; elsewhere the files are uploaded and ``done.json`` comes last.

    Raises:
        SinkError: the place cannot be written.
    """
    (draft / DONE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    filesystem, path = open_filesystem(target)
    try:
        if is_local(filesystem):
            _rename(draft, Path(path), target, report["identity"])
        else:
            _upload(filesystem, draft, path)
    except OSError as error:
        raise SinkError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, path: Path, target: str, identity: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if is_complete(target, identity):
            return
        put_in_place(draft, path)


def _upload(filesystem: Any, draft: Path, path: str) -> None:
    if filesystem.exists(path):
        if filesystem.exists(posixpath.join(path, DONE)):
            filesystem.rm_file(posixpath.join(path, DONE))
        filesystem.rm(path, recursive=True)
    files = [file.relative_to(draft).as_posix() for file in draft.rglob("*") if file.is_file()]
    for name in sorted(files, key=lambda name: (name == DONE, name)):
        there = posixpath.join(path, name)
        filesystem.makedirs(posixpath.dirname(there), exist_ok=True)
        filesystem.put_file(str(draft / name), there)


def join_segments(
    tasks: Sequence[Task], target: str, identity: str, classes: Sequence[ClassInfo]
) -> dict[str, Any]:
    """Make one folder of the finished segments of a video, and remove theirs.

    Label maps are linked, not copied; overlays stay one file a segment, ``overlay-<first>.mp4``.

    Raises:
        SinkError: the place cannot be written.
    """
    parts = [(task, Path(open_filesystem(task.target)[1])) for task in tasks]
    reports = [read_done(task.target) or {} for task in tasks]
    draft = new_draft(tasks[0].drafts)
    try:
        table = ClassTable(draft / TABLE, classes, {"video": tasks[0].video})
        for task, part in parts:
            table.copy(part / TABLE)
            _link_files(part / LABELS, draft / LABELS)
            for file in part.glob("overlay*.mp4"):
                # A second file of a segment begins where frames change size.
                name = file.name.replace("overlay", f"overlay-{task.first:08d}", 1)
                os.link(file, draft / name)
        table.close()
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise SinkError(f"cannot join the segments of {target}: {error.strerror}") from None
    report = {
        **reports[0],
        "identity": identity,
        "frames": sum(entry["frames"] for entry in reports),
        "seconds": round(sum(entry["seconds"] for entry in reports), 3),
        "damaged": max(entry["damaged"] for entry in reports),
        "resets": dict(sum((Counter(entry["resets"]) for entry in reports), Counter())),
        "segments": len(tasks),
    }
    publish(draft, target, report)
    for _, part in parts:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _link_files(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        os.link(file, target / file.name)

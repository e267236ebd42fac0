"""Bundles by name on the Hugging Face hub: ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from streamseg.errors import BundleError
from streamseg.files import whole_folder
from streamseg.installation import package_command
from streamseg.runtime.bundle.manifest import parse_manifest

HUB_SCHEME = "hf:"
HUB_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
MANIFEST_NAME = "manifest.json"

logger = logging.getLogger(__name__)


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` names a repository on the hub."""
    return os.fspath(source).startswith(HUB_SCHEME)


def bundle_cache() -> Path:
    """The folder of downloaded bundles: ``$XDG_CACHE_HOME/streamseg/bundles``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "streamseg" / "bundles"


def fetch_bundle(source: str) -> Path:
    """Download a bundle, or find it in the cache; the folder holds one commit of the repository.

    Only the manifest and the files that it lists are downloaded. Their hashes are checked where
    the bundle is read. A name with a whole commit needs no network once it is in the cache.
    Endpoint, token and offline mode are those of ``huggingface_hub``.

    Raises:
        BundleError: not such a name, not there, no network, or a repository without a manifest.
    """
    found = HUB_NAME.fullmatch(source)
    if found is None:
        raise BundleError(
            f"{source} is not a name on the hub, expected hf:ORG/NAME or hf:ORG/NAME@REVISION"
        )
    repository, revision = found["repository"], found["revision"]
    pinned = _folder(repository, revision) if revision else None
    if pinned is not None and (pinned / MANIFEST_NAME).is_file():
        return pinned
    manifest = _download(source, repository, MANIFEST_NAME, revision)
    commit = manifest.parent.name
    if revision != commit:
        logger.info("%s is now commit %s", source, commit)
    folder = _folder(repository, commit)
    if not (folder / MANIFEST_NAME).is_file():
        _fill(folder, manifest, lambda name: _download(source, repository, name, commit))
    return folder


def _folder(repository: str, commit: str) -> Path:
    return bundle_cache() / f"{repository}@{commit}".replace("/", "--")


def _fill(folder: Path, manifest: Path, download: Callable[[str], Path]) -> None:
    """Copies, since a bundle holds no links and the hub's cache consists of them."""
    try:
        files = parse_manifest(manifest.read_text(encoding="utf-8")).files
    except UnicodeDecodeError:
        raise BundleError(f"{manifest} is not UTF-8 text") from None
    with whole_folder(folder, BundleError) as draft:
        for name in files:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(download(name), draft / name)
        shutil.copyfile(manifest, draft / MANIFEST_NAME)


def _download(source: str, repository: str, name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise BundleError(
            f"{source} needs huggingface_hub. Run: {package_command('huggingface_hub')}. "
            f"{_by_hand(repository)}"
        ) from None
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # which HTTP library raises differs between the hub's versions
        missing = isinstance(error, EntryNotFoundError)
        if missing and not isinstance(error, LocalEntryNotFoundError):
            if name != MANIFEST_NAME:
                raise BundleError(f"{source} lacks {name}, which its manifest lists") from None
            raise BundleError(
                f"{source} is not a bundle: the repository has no {MANIFEST_NAME}. If it holds a "
                f"checkpoint, make a bundle of it: streamseg export {source} --size HxW "
                f"-o {repository.rpartition('/')[2]}"
            ) from None
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BundleError(
            f"{source} cannot be downloaded: {reason[:300]}. {_by_hand(repository)}"
        ) from None


def _by_hand(repository: str) -> str:
    folder = repository.rpartition("/")[2]
    return (
        f"Without network here: run 'hf download {repository} --local-dir {folder}' on a machine "
        f"that has it, copy the folder, and open {folder}"
    )

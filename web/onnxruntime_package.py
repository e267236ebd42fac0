"""The npm package ``onnxruntime-web``: found, or fetched with npm and checked."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from streamseg.errors import ExportError

VERSION = "1.30.0"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
WASM_FILES = (
    "dist/ort.wasm.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
)
WEBGPU_FILES = (
    "dist/ort.webgpu.min.mjs",
    "dist/ort-wasm-simd-threaded.asyncify.mjs",
    "dist/ort-wasm-simd-threaded.asyncify.wasm",
)


def find_package(folder: Path | None = None) -> Path:
    """Folder of ``onnxruntime-web``: ``folder``, the cache, or fetched with npm into the cache.

    Raises:
        ExportError: it is missing and npm is missing or fails, or what npm brought differs.
    """
    if folder is not None:
        if not (folder / WASM_FILES[0]).is_file():
            raise ExportError(
                f"{folder} has no {WASM_FILES[0]}; expected the folder of the package"
            )
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "streamseg" / f"onnxruntime-web-{VERSION}"
    if not target.is_dir():
        _fetch(target)
    return target


def _fetch(target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"onnxruntime-web {VERSION} is needed, and npm was not found: install Node.js, or give "
            "an unpacked package with --onnxruntime-web FOLDER"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as draft:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", draft]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ExportError(f"npm cannot fetch onnxruntime-web: {done.stderr.strip()[-300:]}")
        archive = Path(draft) / f"onnxruntime-web-{VERSION}.tgz"
        _check(archive)
        with tarfile.open(archive) as packed:
            packed.extractall(draft, filter="data")
        try:
            (Path(draft) / "package").rename(target)
        except OSError:
            if not target.is_dir():  # another process may have been faster
                raise


def _check(archive: Path) -> None:
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise ExportError(
            f"{archive.name} has SHA-512 {found[:16]}..., expected {INTEGRITY[:16]}..."
        )

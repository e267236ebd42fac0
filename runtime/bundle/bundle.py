"""A bundle on disk: manifest and graphs, verified before anything of it is used."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamseg.errors import BundleError, raised_as
from streamseg.files import whole_folder
from streamseg.runtime.bundle.hub_bundle import MANIFEST_NAME, fetch_bundle, is_hub_name
from streamseg.runtime.bundle.manifest import FILE_INIT, Manifest, parse_manifest
from streamseg.runtime.bundle.onnx_wire import require_self_contained
from streamseg.runtime.bundle.state import StateSpec

MANIFEST = MANIFEST_NAME
MAX_MANIFEST_BYTES = 16 << 20


def digest(content: bytes) -> str:
    """SHA-256 as the manifest writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def graphs_identity(graphs: Mapping[str, bytes]) -> str:
    """``Bundle.identity`` of graphs by name."""
    return _joined_identity({name: digest(content) for name, content in graphs.items()})


def promised_identity(manifest: Manifest) -> str:
    """``Bundle.identity`` of a bundle whose files are those that its manifest lists."""
    return _joined_identity(
        {name: manifest.files[graph.file] for name, graph in manifest.graphs.items()}
    )


def _joined_identity(digests: Mapping[str, str]) -> str:
    joined = "".join(f"{name}:{digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(joined.encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: its folder.
        manifest: parsed and checked.
        graphs: graph name -> ONNX bytes, equal to what the manifest's SHA-256 promises, with all
            tensors inside. Backends load these bytes rather than the file, so what was verified is
            what runs.
        given: state name -> array, for the given states whose values the bundle holds.
    """

    path: Path
    manifest: Manifest
    graphs: dict[str, bytes]
    given: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """SHA-256 over the graphs: equal for bundles that compute the same."""
        return graphs_identity(self.graphs)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and verify the bundle in folder ``path``, or ``hf:ORG/NAME`` of one on a hub.

    Raises:
        BundleError: no bundle there, a damaged manifest, a path that leaves the bundle, a file
            whose SHA-256 differs from the manifest's, or a graph with tensors outside its file.
    """
    root = _locate(path)
    manifest = read_manifest(root)
    contents = {name: _read_inside(root, name) for name in manifest.files}
    for name, content in contents.items():
        if digest(content) != manifest.files[name]:
            raise BundleError(
                f"{root / name} has {digest(content)[:19]}..., the manifest says "
                f"{manifest.files[name][:19]}...: the file was changed or damaged after export. "
                "Export the checkpoint again"
            )
    graphs = {name: contents[graph.file] for name, graph in manifest.graphs.items()}
    for name, graph in manifest.graphs.items():
        require_self_contained(graphs[name], f"{root / graph.file}")
    given = {
        spec.name: _read_array(spec, contents[spec.init.removeprefix(FILE_INIT)])
        for spec in manifest.state
        if spec.init.startswith(FILE_INIT)
    }
    return Bundle(root, manifest, graphs, given)


def require_one_stream(bundle: Bundle, purpose: str) -> None:
    """Raise BundleError where a step of the bundle serves several streams."""
    count = bundle.manifest.frame.batch
    if count > 1:
        raise BundleError(
            f"{bundle.path} serves {count} streams a step; {purpose} takes a bundle of one stream. "
            "Use the bundle that it was made from"
        )


def _read_array(spec: StateSpec, content: bytes) -> npt.NDArray[np.generic]:
    with raised_as(BundleError, f"the .npy file with the values of state '{spec.name}'"):
        # np.load would also take archives and pickles.
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
        raise BundleError(
            f"the bundle's values of '{spec.name}' are {array.dtype} {list(array.shape)}, expected "
            f"{spec.dtype} {list(spec.shape)}"
        )
    return array


def _locate(path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle; one on a hub is downloaded first."""
    return fetch_bundle(os.fspath(path)) if is_hub_name(path) else Path(path)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest alone; the files it lists are not touched."""
    root = _locate(path)
    if not root.is_dir():
        kind = "a file, not a bundle folder" if root.exists() else "missing"
        raise BundleError(
            f"bundle {root} is {kind}; make one with: streamseg export CKPT -o {root}"
        )
    if not (root / MANIFEST).exists():
        raise BundleError(f"{root} is not a bundle: it has no {MANIFEST}")
    content = _read_inside(root, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        return parse_manifest(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise BundleError(f"{root / MANIFEST} is not UTF-8 text") from None
    except BundleError as error:
        raise BundleError(f"{root}: {error}") from None


def _read_inside(root: Path, name: str, limit: int | None = None) -> bytes:
    """Read a file of the bundle, refusing links: they could point anywhere."""
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{path} is a link; a bundle holds plain files only")
    try:
        if not path.is_file():
            raise BundleError(f"the bundle lacks {path}, which its manifest lists")
        if limit is not None and path.stat().st_size > limit:
            raise BundleError(f"{path} has {path.stat().st_size} bytes, expected at most {limit}")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None


def check_target(target: str | os.PathLike[str]) -> None:
    """Raise BundleError where a bundle must not be written: something else is there."""
    path = Path(target)
    if path.is_symlink() or (path.exists() and not _may_replace(path)):
        raise BundleError(
            f"{path} exists and is not a bundle; choose another -o or remove it first"
        )


@contextmanager
def new_bundle(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a folder to write a bundle into; on success it becomes ``target``, else it is removed.

    An older bundle at ``target`` is replaced as a whole, in one step. Anything else there is left
    alone.

    Raises:
        BundleError: ``target`` exists and is not a bundle, or cannot be written.
    """
    path = Path(target)
    check_target(path)
    with whole_folder(path, BundleError) as draft:
        yield draft


def _may_replace(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))

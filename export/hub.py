"""Checkpoints by name on the Hugging Face hub: ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import CheckpointError
from streamseg.installation import package_command
from streamseg.runtime.bundle.hub_bundle import HUB_NAME, HUB_SCHEME

_BESIDE = ("config.json", "preprocessor_config.json", "processor_config.json", "README.md")
_SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


@dataclass(frozen=True)
class Snapshot:
    """A repository's files on this machine.

    Attributes:
        folder: with weights and configuration.
        name: ``hf:ORG/NAME@COMMIT``, which gives the same files at any time.
    """

    folder: Path
    name: str


def fetch(source: str) -> Snapshot:
    """Download a checkpoint, or take it from the cache of ``huggingface_hub``.

    Only weights, configuration and the model card are downloaded. Endpoint, cache, token and
    offline mode are those of ``huggingface_hub`` (``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``,
    ``HF_HUB_OFFLINE``).

    Raises:
        CheckpointError: not such a name, not there, or no network; the message gives the commands
            for a machine without network.
    """
    found = HUB_NAME.fullmatch(source)
    if found is None:
        raise CheckpointError(
            f"{source} is not a name on the hub, expected hf:ORG/NAME or hf:ORG/NAME@REVISION"
        )
    repository, revision = found["repository"], found["revision"]
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{source} needs huggingface_hub. Run: {package_command('huggingface_hub')}. "
            + _offline(repository, revision)
        ) from None
    try:
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=[*_BESIDE, *_SAFE])
        )
        if not any(folder.glob("model*.safetensors")):
            # The commit, so that both downloads are of one state of the repository.
            snapshot_download(
                repository, revision=folder.name, allow_patterns=[*_BESIDE, *_PICKLED]
            )
    except Exception as error:  # which HTTP library raises differs between the hub's versions
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{source} cannot be downloaded: {reason[:300]}. " + _offline(repository, revision)
        ) from None
    return Snapshot(folder, f"{HUB_SCHEME}{repository}@{folder.name}")


def _offline(repository: str, revision: str | None) -> str:
    """The commands that bring the same files by hand."""
    folder = repository.rpartition("/")[2]
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"Without network here: run 'hf download {repository}{pinned} --local-dir {folder}' on a "
        f"machine that has it, copy the folder, and give {folder} instead of "
        f"{HUB_SCHEME}{repository}"
    )

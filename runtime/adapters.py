"""Results for other libraries: Pillow pictures and supervision's detections."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from streamseg.errors import StreamsegError
from streamseg.installation import package_command
from streamseg.runtime.step_result import StepResult

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


def from_pil(image: PillowImage) -> npt.NDArray[np.uint8]:
    """A Pillow picture as a frame for ``Stream.step``: ``[height, width, 3]`` uint8 RGB.

    The picture is turned upright as its EXIF says. Transparency is dropped.
    """
    _require("PIL", "pillow")
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def to_pil(result: StepResult, *, kind: Literal["overlay", "labels"] = "overlay") -> PillowImage:
    """A result as a Pillow picture.

    Args:
        result: of a step.
        kind: ``overlay`` is RGB; ``labels`` is a palette picture whose values are class ids.
    """
    _require("PIL", "pillow")
    from PIL import Image

    if kind == "overlay":
        return Image.fromarray(result.overlay())
    height, width = result.labels.shape
    picture = Image.frombytes("P", (width, height), result.labels.tobytes())
    palette = np.zeros((256, 3), np.uint8)
    for entry in result.classes:
        palette[entry.id] = entry.color
    picture.putpalette(palette.tobytes())
    return picture


def to_detections(result: StepResult) -> Any:
    """A result as ``supervision.Detections``: one mask, box and class name for each class present.

    ``supervision.MaskAnnotator`` draws them, and its zones and sinks take them.
    """
    supervision = _require("supervision", "supervision")
    present = [entry for entry in result.classes if (result.labels == entry.id).any()]
    masks = np.array([result.labels == entry.id for entry in present], bool)
    masks = masks.reshape(len(present), *result.labels.shape)
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks).astype(np.float32).reshape(-1, 4),
        mask=masks,
        class_id=np.array([entry.id for entry in present], int),
        data={"class_name": np.array([entry.name for entry in present], str)},
    )


def _require(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise StreamsegError(
            f"this needs {package} ({error}). Run: {package_command(package)}"
        ) from None

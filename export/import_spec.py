"""What ``streamseg import`` needs to know of an ONNX graph: frame, states, outputs, constants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamseg.errors import ExportError
from streamseg.export.step import IMAGENET_MEAN, IMAGENET_STD, Triple

LAYOUTS = ("NCHW", "NHWC")
FRAME_TYPES = ("float32", "float16", "uint8")
OUTPUT_KINDS = ("logits", "labels", "alpha")
# An input's name and the output that holds its next value.
_PATTERNS = (
    (r"(.+)[._/]in", r"\1{s}out"),
    (r"(.+)in", r"\1out"),
    (r"past[._](.+)", r"present{s}\1"),
    (r"(r\d+)i", r"\1o"),
)
_FRAME = re.compile(
    r"(?P<name>.+):(?P<layout>NCHW|NHWC):(?P<dtype>float32|float16|uint8)"
    r"(?::(?P<range>imagenet|-?[\d.]+\.\.-?[\d.]+?)(?P<bgr>:bgr)?)?"
)


@dataclass(frozen=True)
class FrameInput:
    """How the graph takes a frame: value ``(pixel - mean) / std`` on the 0..255 scale."""

    name: str
    layout: str
    dtype: str
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    bgr: bool = False


@dataclass(frozen=True)
class LabelsOutput:
    """What labels are made from: logits, labels, or the probability of a foreground."""

    name: str
    kind: str
    threshold: float = 0.5


@dataclass(frozen=True)
class ImportSpec:
    """Everything that an ONNX file does not say of itself.

    Attributes:
        frame: the input that takes the frame.
        output: the output that labels are made from.
        states: input -> output that holds its next value.
        initial: input -> value of every element at the start of a stream; zero for the others.
        constants: input -> value, for inputs that stay the same.
        dimensions: named dimension -> extent.
        classes: their names; numbered where empty.
    """

    frame: FrameInput
    output: LabelsOutput
    states: Mapping[str, str] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    dimensions: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def read_frame(text: str) -> FrameInput:
    """``"src:NCHW:float32:0..1"``, with ``imagenet`` as another range and ``:bgr`` behind it.

    Raises:
        ExportError: the text is something else.
    """
    found = _FRAME.fullmatch(text)
    if found is None:
        raise ExportError(
            f"--frame is '{text}', expected NAME:LAYOUT:TYPE:RANGE such as src:NCHW:float32:0..1; "
            f"LAYOUT is {' or '.join(LAYOUTS)}, TYPE one of {', '.join(FRAME_TYPES)}, RANGE the "
            "values of black and white or 'imagenet', and :bgr may follow"
        )
    mean, std = _normalisation(found["range"], found["dtype"])
    return FrameInput(
        found["name"], found["layout"], found["dtype"], mean, std, found["bgr"] is not None
    )


def _normalisation(text: str | None, dtype: str) -> tuple[Triple, Triple]:
    if text == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    low, high = (float(part) for part in (text or "0..255").split(".."))
    std = 255 / (high - low) if high > low else 0.0
    mean = -low * std
    if not std or not 0 <= mean <= 255:
        raise ExportError(f"the range of --frame is {text}, expected LOW..HIGH, such as 0..1")
    if dtype == "uint8" and (low, high) != (0.0, 255.0):
        raise ExportError(f"the range of --frame is {text}, expected 0..255 for uint8")
    return (mean, mean, mean), (std, std, std)


def read_output(text: str) -> LabelsOutput:
    """``"out:logits"``, ``"seg:labels"``, ``"pha:alpha"`` or ``"pha:alpha:0.3"``.

    Raises:
        ExportError: the text is something else.
    """
    name, _, rest = text.partition(":")
    kind, _, threshold = rest.partition(":")
    try:
        if not name or kind not in OUTPUT_KINDS or (threshold and kind != "alpha"):
            raise ValueError
        return LabelsOutput(name, kind, float(threshold or 0.5))
    except ValueError:
        raise ExportError(
            f"--output is '{text}', expected NAME:KIND, with KIND logits, labels, or "
            "alpha[:THRESHOLD]"
        ) from None


def match_states(inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """Pairs of input and output whose names fit one of the usual patterns.

    Raises:
        ExportError: an input fits several outputs, or two inputs the same one.
    """
    pairs: dict[str, str] = {}
    for name in inputs:
        fitting = {
            output
            for pattern, replacement in _PATTERNS
            for separator in "._/"
            if (found := re.fullmatch(pattern, name)) is not None
            for output in [found.expand(replacement.format(s=separator))]
            if output in outputs
        }
        if len(fitting) > 1:
            raise ExportError(
                f"input '{name}' may be the state of {' or '.join(sorted(fitting))}: add --state "
                f"{name}=OUTPUT"
            )
        if fitting:
            pairs[name] = fitting.pop()
    if len(set(pairs.values())) < len(pairs):
        raise ExportError(f"inputs {', '.join(pairs)} share an output: give --state for each")
    return pairs


def state_name(name: str) -> str:
    """A state's name in the manifest: the input's, without what says that it is an input."""
    base = re.sub(r"[^\w.\-]", "_", name)
    for pattern in (r"(.+?)[._]in", r"past[._](.+)", r"(r\d+)i"):
        found = re.fullmatch(pattern, base)
        if found is not None:
            return found[1]
    return base if re.match(r"\w", base) else f"state_{base}"

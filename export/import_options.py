"""What a command line says of an ONNX graph: the options of ``streamseg import``."""

from __future__ import annotations

from dataclasses import dataclass

from streamseg.option_fields import option


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """The graph's inputs and outputs as text; ``import_spec`` reads them.

    Attributes:
        size: (H, W) of the frame.
        frame, output: see ``read_frame`` and ``read_output``.
        state: ``INPUT=OUTPUT`` of each state; empty pairs them by their names.
        initial, constant: ``INPUT=NUMBER``.
        dim: ``NAME=EXTENT`` of named dimensions.
        classes: names separated by commas.
        license: of the weights.
        logits: also output float32 logits.
    """

    size: tuple[int, int] = option("Frame size of the model.", common=True)
    frame: str = option(
        "Input of the frame, e.g. src:NCHW:float32:0..1, or ...:imagenet; :bgr may follow.",
        metavar="NAME:LAYOUT:TYPE:RANGE",
        common=True,
    )
    output: str = option(
        "Output that gives the labels: NAME:logits, NAME:labels, or NAME:alpha[:THRESHOLD].",
        metavar="NAME:KIND",
        common=True,
    )
    state: tuple[str, ...] = option(
        "State carried from frame to frame; may be repeated.", default=(), metavar="INPUT=OUTPUT"
    )
    initial: tuple[str, ...] = option(
        "Initial value of a state other than zero; may be repeated.",
        default=(),
        metavar="INPUT=NUMBER",
    )
    constant: tuple[str, ...] = option(
        "Value of an input that never changes; may be repeated.",
        default=(),
        metavar="INPUT=NUMBER",
    )
    dim: tuple[str, ...] = option(
        "Size of a named dimension; may be repeated.", default=(), metavar="NAME=EXTENT"
    )
    classes: str | None = option(
        "Names of the classes.", default=None, metavar="A,B,...", unset="numbers"
    )
    license: str | None = option("License of the weights.", default=None, unset="unknown")
    logits: bool = option("Also output float32 logits.", default=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names without spaces around them; empty if there are no names."""
        return tuple(filter(None, (name.strip() for name in (self.classes or "").split(","))))

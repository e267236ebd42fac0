"""The options of outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from streamseg.runtime.bundle.manifest import Manifest
    from streamseg.runtime.sinks import Sink
    from streamseg.runtime.sinks.labels import LabelTable
    from streamseg.runtime.sources import Source
    from streamseg.runtime.video.overlay import Overlay

PLACE = click.Path(path_type=Path)
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "out": click.option("--out", type=PLACE, help="Overlay video, H.264 (.mp4, .mov, .mkv)."),
    "labels": click.option(
        "--labels", type=PLACE, help="Folder for label maps, one 8-bit PNG a frame."
    ),
    "label_ids": click.option(
        "--label-ids",
        type=click.Choice(["train", "cityscapes", "cityscapes-by-position"]),
        default="train",
        show_default=True,
        help="Values of the label maps: the bundle's class ids, or Cityscapes' label ids, found by "
        "the classes' names or by their position.",
    ),
    "confidence": click.option(
        "--confidence",
        type=PLACE,
        help="Folder for PNGs of the labels' probabilities, 255 = certain; needs logits.",
    ),
    "areas": click.option(
        "--areas", type=PLACE, help="Append each frame's share of every class, JSON lines."
    ),
    "sheet": click.option("--sheet", type=PLACE, help="Contact sheet of the stream (.png)."),
    "window": click.option("--window", is_flag=True, help="Show the pictures in a window."),
    "null": click.option("--null", is_flag=True, help="Write nothing; print the times only."),
    "opacity": click.option(
        "--opacity", default=0.5, show_default=True, type=click.FloatRange(0, 1)
    ),
    "legend": click.option("--legend/--no-legend", default=True, help="Class names in pictures."),
}
_WRITTEN = ("out", "labels", "confidence", "areas", "sheet")
_OUTPUTS = (*_WRITTEN, "window", "null")


@dataclass(frozen=True)
class OutputArguments:
    """What the shared options say."""

    out: Path | None
    labels: Path | None
    label_ids: str
    confidence: Path | None
    areas: Path | None
    sheet: Path | None
    window: bool
    null: bool
    opacity: float
    legend: bool

    @property
    def places(self) -> list[Path]:
        """Files and folders that are written."""
        given = (getattr(self, name) for name in _WRITTEN)
        return [place for place in given if place is not None]

    def require_one(self) -> None:
        """Raise click's UsageError where no output was asked for."""
        if not any(getattr(self, name) for name in _OUTPUTS):
            names = ", ".join(f"--{name}" for name in _OUTPUTS[:-1])
            raise click.UsageError(f"nothing to write: give {names} or --null")

    def _require_apart(self) -> None:
        """Raise click's UsageError where two outputs would overwrite each other."""
        options: dict[Path, str] = {}
        for name in _WRITTEN:
            path = getattr(self, name)
            if path is None:
                continue
            other = options.setdefault(Path(path).absolute(), name)
            if other != name:
                raise click.UsageError(f"--{other} and --{name} both write to {path}")

    def overlay(self, manifest: Manifest) -> Overlay:
        """What draws the pictures."""
        from streamseg.runtime.video.overlay import Overlay

        return Overlay(manifest.classes, opacity=self.opacity, legend=self.legend)

    def _label_table(self, manifest: Callable[[], Manifest]) -> LabelTable | None:
        from streamseg.runtime.sinks.labels import cityscapes_ids

        if self.label_ids == "train":
            return None
        by_position = self.label_ids == "cityscapes-by-position"
        return cityscapes_ids(manifest().classes, by_position=by_position)

    def open(
        self,
        stack: ExitStack,
        source: Source,
        manifest: Callable[[], Manifest],
        stop: Callable[[], None],
    ) -> list[Sink]:
        """Open the outputs; what is not finished when ``stack`` closes is discarded.

        Args:
            stack: discards the sinks.
            source: gives the video's rate.
            manifest: reads that of the bundle, where an output needs it.
            stop: called when the user closes the window.
        """
        from streamseg.runtime.sinks import (
            AreaSink,
            ConfidenceSink,
            LabelSink,
            NullSink,
            SheetSink,
            VideoSink,
            WindowSink,
        )
        from streamseg.runtime.sinks.labels import require_logits

        self._require_apart()
        sinks: list[Sink] = []

        def add(sink: Sink) -> None:
            stack.callback(sink.discard)
            sinks.append(sink)

        if self.window:
            add(WindowSink(source.name, stop))
        if self.out is not None:
            add(VideoSink(self.out, source.fps))
        if self.labels is not None:
            add(LabelSink(self.labels, self._label_table(manifest)))
        if self.confidence is not None:
            require_logits(manifest())
            add(ConfidenceSink(self.confidence))
        if self.areas is not None:
            add(AreaSink(self.areas, manifest().classes))
        if self.sheet is not None:
            add(SheetSink(self.sheet))
        if self.null:
            add(NullSink())
        return sinks


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of outputs as one argument ``outputs``."""

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        settings = {name: given.pop(name) for name in _OPTIONS}
        return function(*args, outputs=OutputArguments(**settings), **given)

    for option in reversed(_OPTIONS.values()):
        call = option(call)
    return call

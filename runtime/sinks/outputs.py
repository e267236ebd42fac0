"""Which outputs a stream has, and opening them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamseg.destinations import FOLDER, JSON_LINES, PICTURE
from streamseg.errors import SinkError
from streamseg.files import STDOUT
from streamseg.option_fields import check_options, option, option_fields
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.sinks.labels import (
    ConfidenceSink,
    LabelSink,
    LabelTable,
    cityscapes_ids,
    require_logits,
)
from streamseg.runtime.sinks.lines import AreaSink
from streamseg.runtime.sinks.pictures import OVERLAYS, open_overlay
from streamseg.runtime.sinks.sheet import SheetSink
from streamseg.runtime.sinks.sink import Sink
from streamseg.runtime.sinks.window import NullSink, WindowSink
from streamseg.runtime.sources import Source
from streamseg.runtime.video.overlay import Overlay

LabelIds = Literal["train", "cityscapes", "cityscapes-by-position"]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written or shown of a stream.

    Attributes:
        out, labels, confidence, areas, sheet: files and folders; None leaves an output out.
        label_ids: values of the label maps.
        show: open a window; the command line opens the page where there can be none.
        null: write nothing.
        opacity: of the colours over the picture, 0 to 1.
        legend: draw the names of the classes.

    Raises:
        SinkError: a value is out of its range, or two outputs go to the same place.
    """

    out: Path | None = option(
        "Overlay: a video (.mp4, .mov, .mkv), a folder, or a picture (.png) of one frame.",
        default=None,
        short="-o",
        common=True,
        written=OVERLAYS,
    )
    labels: Path | None = option(
        "Folder for label maps, one 8-bit PNG per frame.", default=None, common=True, written=FOLDER
    )
    label_ids: LabelIds = option(
        "Values in label maps: the bundle's class ids, or Cityscapes label ids matched by class "
        "name or by position.",
        default="train",
    )
    confidence: Path | None = option(
        "Folder for PNGs of the labels' probabilities, 255 = certain; needs a bundle with logits.",
        default=None,
        written=FOLDER,
    )
    areas: Path | None = option(
        "JSON Lines file to which each frame's share of every class is appended; '-' is standard "
        "output.",
        default=None,
        written=JSON_LINES,
    )
    sheet: Path | None = option(
        "Contact sheet of the stream (.png).", default=None, written=PICTURE
    )
    show: bool = option(
        "Show the stream in a window, or on a web page where there can be none.",
        default=False,
        common=True,
    )
    null: bool = option("Write nothing; only report timings.", default=False)
    opacity: float = option("Opacity of the overlay.", default=0.5, low=0, high=1)
    legend: bool = option("Draw class names on the overlay.", default=True)

    def __post_init__(self) -> None:
        check_options(self, SinkError)
        owners: dict[Path, str] = {}
        for kind, path in self.places.items():
            other = owners.setdefault(path.absolute(), kind)
            if other != kind:
                raise SinkError(f"--{other} and --{kind} both write to {path}")

    @property
    def places(self) -> dict[str, Path]:
        """Kind -> file or folder that is written."""
        given = {kind: getattr(self, kind) for kind in WRITTEN}
        return {kind: Path(path) for kind, path in given.items() if path is not None}

    def require_one(self, *, published: bool = False) -> None:
        """Raise SinkError where no output is selected, and nothing is published either."""
        if not (self.places or self.show or self.null or published):
            names = ", ".join(f"--{kind}" for kind in (*WRITTEN, "show"))
            raise SinkError(f"no output is selected: add {names} or --null")

    @property
    def to_stdout(self) -> bool:
        """Whether areas go to standard output, so that nothing else may."""
        return self.places.get("areas") == STDOUT

    def overlay(self, manifest: Manifest) -> Overlay:
        """What draws the pictures."""
        return Overlay(manifest.classes, opacity=self.opacity, legend=self.legend)

    def open(
        self,
        stack: ExitStack,
        source: Source,
        manifest: Callable[[], Manifest],
        stop: Callable[[], None],
        *,
        frames: int | None = None,
    ) -> list[Sink]:
        """Open the outputs; those that are not finished when ``stack`` closes are discarded.

        Args:
            stack: discards the sinks.
            source: gives the video's rate.
            manifest: reads that of the bundle, where an output needs it.
            stop: called when the user closes the window.
            frames: how many will be segmented, where that is limited.
        """
        sinks: list[Sink] = []

        def add(sink: Sink) -> None:
            stack.callback(sink.discard)
            sinks.append(sink)

        if self.show:
            add(WindowSink(source.name, stop))
        if self.out is not None:
            add(open_overlay(self.out, source, frames))
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

    def _label_table(self, manifest: Callable[[], Manifest]) -> LabelTable | None:
        if self.label_ids == "train":
            return None
        by_position = self.label_ids == "cityscapes-by-position"
        return cityscapes_ids(manifest().classes, by_position=by_position)


WRITTEN = {
    entry.name: entry.option.written
    for entry in option_fields(OutputOptions)
    if entry.option.written is not None
}

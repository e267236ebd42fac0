"""Where results go: overlays as video or pictures, label maps, areas, sheets, windows."""

from streamseg.runtime.sinks.labels import ConfidenceSink, LabelSink
from streamseg.runtime.sinks.lines import AreaSink, JsonLines
from streamseg.runtime.sinks.sheet import SheetSink
from streamseg.runtime.sinks.sink import SegmentedFrame, Sink
from streamseg.runtime.sinks.video import VideoSink
from streamseg.runtime.sinks.window import NullSink, WindowSink

__all__ = [
    "AreaSink",
    "ConfidenceSink",
    "JsonLines",
    "LabelSink",
    "NullSink",
    "SegmentedFrame",
    "SheetSink",
    "Sink",
    "VideoSink",
    "WindowSink",
]

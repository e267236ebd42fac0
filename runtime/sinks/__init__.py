"""Where results go: overlay video, label maps, contact sheet."""

from streamseg.runtime.sinks.labels import LabelSink
from streamseg.runtime.sinks.sheet import SheetSink
from streamseg.runtime.sinks.sink import SegmentedFrame, Sink
from streamseg.runtime.sinks.video import VideoSink

__all__ = ["LabelSink", "SegmentedFrame", "SheetSink", "Sink", "VideoSink"]

"""Where frames come from: files, folders, cameras, network streams, pipelines, scenes."""

from streamseg.runtime.sources.frame import Frame, Source
from streamseg.runtime.sources.opening import open_source
from streamseg.runtime.sources.options import SourceOptions, parse_source
from streamseg.runtime.sources.redaction import RedactingFilter, redact

__all__ = [
    "Frame",
    "RedactingFilter",
    "Source",
    "SourceOptions",
    "open_source",
    "parse_source",
    "redact",
]

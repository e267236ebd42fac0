"""Where frames come from: files, folders, cameras, network streams, pipelines, scenes."""

from streamseg.redaction import RedactingFilter, redact
from streamseg.runtime.sources.frame import Frame, Source
from streamseg.runtime.sources.opening import open_source
from streamseg.runtime.sources.options import SourceOptions, parse_source, require_kept

__all__ = [
    "Frame",
    "RedactingFilter",
    "Source",
    "SourceOptions",
    "open_source",
    "parse_source",
    "redact",
    "require_kept",
]

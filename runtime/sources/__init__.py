"""Where frames come from: video files, folders of images, cameras."""

from streamseg.runtime.sources.camera import CameraSource, open_camera
from streamseg.runtime.sources.folder import FolderSource
from streamseg.runtime.sources.frame import Frame, Source
from streamseg.runtime.sources.opening import open_source
from streamseg.runtime.sources.video import VideoSource

__all__ = [
    "CameraSource",
    "FolderSource",
    "Frame",
    "Source",
    "VideoSource",
    "open_camera",
    "open_source",
]

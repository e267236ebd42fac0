"""The scene as a function of the frame's number."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamseg.errors import SourceError
from streamseg.scenes.light import Sky
from streamseg.scenes.paint import Painter
from streamseg.scenes.scene_config import SceneConfig
from streamseg.scenes.sensor import Sensor
from streamseg.scenes.viewpoint import Course, Drive
from streamseg.scenes.world import World

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SceneFrame:
    """One frame and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 Cityscapes train ids; see `SCENE_CLASSES`.
        index: frame number.
        timestamp: seconds.
    """

    image: Bytes
    labels: Bytes
    index: int
    timestamp: float


class SyntheticScene:
    """An endless drive down a street, with exact labels.

    Frame i is a function of the configuration and i: it is the same whether it is reached in
    order or asked for at once, in this process or another. Threads may share a scene.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        course = Course(config)
        self._drive = Drive(config, course)
        self._sky = Sky(config)
        self._painter = Painter(config, course, World(config, course, self._drive))
        self._sensor = Sensor(config)

    def render(self, index: int) -> tuple[Bytes, Bytes]:
        """Render one frame.

        Args:
            index: 0 or more; time is index / fps.

        Returns:
            image (H, W, 3) uint8 RGB, labels (H, W) uint8; new arrays at every call.

        Raises:
            SourceError: the index is negative, or past the end of a scene with `frames`.
        """
        end = self.config.frames
        if index < 0 or (end is not None and index >= end):
            expected = "0 or more" if end is None else f"0 to {end - 1}"
            raise SourceError(f"scene: no frame {index}; expected {expected}")
        time = index / self.config.fps
        light = self._sky.light(time)
        canvas = self._painter.paint(self._drive.pose(time), light, time)
        labels = np.asarray(cv2.extractChannel(canvas, 3), dtype=np.uint8)
        image = cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB)
        # A lens softens the staircase edges that the labels need.
        soft = np.asarray(cv2.GaussianBlur(image, (3, 3), 0.6), dtype=np.uint8)
        return self._sensor.expose(soft, light, index, time), labels

    def frames(self, start: int = 0, count: int | None = None) -> Iterator[SceneFrame]:
        """Frames in order.

        Args:
            start: first frame number.
            count: how many; None continues to the end of the scene, or for ever.

        Raises:
            SourceError: the range leaves the scene.
        """
        end = self.config.frames if count is None else start + count
        index = start
        while end is None or index < end:
            image, labels = self.render(index)
            yield SceneFrame(image, labels, index, index / self.config.fps)
            index += 1

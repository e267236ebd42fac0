"""Stream a video through a Triton server: one sequence, one request a frame, label maps as PNG.

    python samples/triton_client.py --model street --source VIDEO --labels out/labels

The server keeps the state; `streamseg triton` writes the repository. Needs streamseg[cpu,triton].
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

import streamseg
from streamseg.runtime.sinks import LabelSink, SegmentedFrame
from streamseg.runtime.sources import Frame
from streamseg.runtime.video.resize import FrameFitter, Image


def mark_last(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Every frame with whether it is the last: Triton frees a sequence on its END flag."""
    stream = iter(frames)
    held = next(stream, None)
    while held is not None:
        following = next(stream, None)
        yield held, following is None
        held = following


class Sequence:
    """One camera's requests, in order.

    Args:
        client: connection to the server.
        model: name in the repository.
        number: of the sequence, not 0; two streams must not share one.
    """

    def __init__(self, client: InferenceServerClient, model: str, number: int) -> None:
        self._client, self._model, self._number = client, model, number
        metadata = client.get_model_metadata(model)
        (frame,) = (entry for entry in metadata.inputs if entry.name == "frame")
        # A model that batches streams names its first axis -1; a request brings one frame.
        self.shape = [1, *(int(extent) for extent in frame.shape[1:])]

    def step(self, frame: Image, *, start: bool, end: bool) -> Image:
        """Labels ``[H, W]`` of a frame ``[H, W, 3]``, both uint8 at the model's size."""
        request = InferInput("frame", self.shape, "UINT8")
        request.set_data_from_numpy(frame[None])
        answer = self._client.infer(
            self._model,
            [request],
            outputs=[InferRequestedOutput("labels")],
            sequence_id=self._number,
            sequence_start=start,
            sequence_end=end,
        )
        labels = answer.as_numpy("labels")
        assert labels is not None
        return np.ascontiguousarray(labels[0])


def warm_up(sequence: Sequence, frames: int = 3) -> None:
    """Run a sequence of its own that ends: no other stream's state is touched."""
    black = np.zeros(sequence.shape[1:], np.uint8)
    for index in range(frames):
        sequence.step(black, start=index == 0, end=index == frames - 1)


def stream_video(sequence: Sequence, source: str, target: Path) -> int:
    """Segment a whole video; the number of frames."""
    count = 0
    with streamseg.open_source(source) as video:
        size = (sequence.shape[1], sequence.shape[2])
        fitter = FrameFitter(video.size, size, "stretch", fill=(0, 0, 0))
        sink = LabelSink(target)
        fitted = np.empty((*size, 3), np.uint8)
        for frame, last in mark_last(video):
            fitter.fit(frame.image, fitted)
            labels = fitter.restore(sequence.step(fitted, start=count == 0, end=last))
            sink.write(SegmentedFrame(frame.image, labels, frame.index, frame.timestamp))
            count += 1
        sink.finish()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8001", help="gRPC address of the server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True, help="video file, folder of images or camera")
    parser.add_argument("--labels", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("--sequence", type=int, default=os.getpid(), help="number of the stream")
    parser.add_argument("--warm-up", action="store_true", help="run a throw-away sequence first")
    arguments = parser.parse_args()
    try:
        with InferenceServerClient(arguments.url) as client:
            if arguments.warm_up:
                warm_up(Sequence(client, arguments.model, arguments.sequence))
            sequence = Sequence(client, arguments.model, arguments.sequence)
            count = stream_video(sequence, arguments.source, arguments.labels)
    except (InferenceServerException, streamseg.StreamsegError) as error:
        print(f"triton_client: {error}", file=sys.stderr)
        return 1
    print(f"{count} frames -> {arguments.labels}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

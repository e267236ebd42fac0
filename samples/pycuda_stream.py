"""Segment frames that PyCUDA holds in device memory; labels stay there for PyCUDA to use.

    python samples/pycuda_stream.py street/ --source clip.mp4 --frames 100

Frames are uploaded here because the source is a file; with a camera or a decoder on the GPU they
are already there. Needs a GPU, PyCUDA (pip install 'streamseg[pycuda]', which builds it with CUDA's
toolkit) and, for --backend tensorrt, an engine.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import pycuda.autoprimaryctx  # noqa: F401 - the context that TensorRT and ONNX Runtime use
import pycuda.driver as cuda
from pycuda import gpuarray

import streamseg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--source", required=True)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--backend", default="tensorrt", help="tensorrt, tensorrt_rtx or cuda")
    parser.add_argument("--engine", help="engine file, or folder of several")
    arguments = parser.parse_args()

    with (
        streamseg.open_source(arguments.source) as source,
        streamseg.open(
            arguments.bundle, backend=arguments.backend, engine=arguments.engine
        ) as stream,
    ):
        size = stream.manifest.frame
        on_device = gpuarray.empty((size.height, size.width, 3), np.uint8)
        pixels, side = np.zeros(256, np.int64), cuda.Stream()
        for number, frame in enumerate(source):
            if number == arguments.frames:
                break
            # Use the model's size: frames on the device are not resized.
            image = cv2.resize(frame.image, (size.width, size.height))
            on_device.set_async(image, stream=side)
            # With the stream, the step waits for the frame, and the stream waits for the labels.
            # PyCUDA's arrays name no stream: without it the step would wait for the whole device.
            labels = stream.step_device(on_device, stream=side).labels
            ours = gpuarray.GPUArray(labels.shape, np.uint8, gpudata=labels.pointer)
            side.synchronize()
            pixels += np.bincount(ours.get().ravel(), minlength=256)
        for entry in stream.manifest.classes:
            share = pixels[entry.id] / max(pixels.sum(), 1)
            print(f"{entry.name}: {share:.1%}")


if __name__ == "__main__":
    main()

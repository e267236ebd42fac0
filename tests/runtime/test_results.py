"""Results belong to the caller, and a stream to one thread at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamseg
from streamseg.errors import StreamsegError
from tests.runtime.toy import HEIGHT, WIDTH, ToyReference, write_toy_bundle


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("results") / "toy")


def frames(count: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8))


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (3 * HEIGHT, 2 * WIDTH), (5, 7)])
def test_collected_labels_are_those_of_their_frames(toy: Path, size: tuple[int, int]) -> None:
    images = frames(9, size)
    with streamseg.open(toy) as stream:
        collected = [stream.step(image).labels for image in images]
        stream.reset()
        for labels, image in zip(collected, images, strict=True):
            np.testing.assert_array_equal(labels, stream.step(image).labels.copy())


def test_collected_labels_equal_an_independent_computation(toy: Path) -> None:
    images, reference = frames(9), ToyReference()
    with streamseg.open(toy) as stream:
        collected = [stream.step(image).labels for image in images]
    for labels, image in zip(collected, images, strict=True):
        np.testing.assert_array_equal(labels, reference.step(image).argmax(0))


def test_steps_through_hands_out_owned_labels(toy: Path) -> None:
    images, reference = frames(6), ToyReference()
    with streamseg.open(toy) as stream:
        results = list(stream.steps_through(images))
    for result, image in zip(results, images, strict=True):
        np.testing.assert_array_equal(result.labels, reference.step(image).argmax(0))


def test_reuse_hands_out_the_same_buffer(toy: Path) -> None:
    with streamseg.open(toy, reuse=True) as stream:
        first = stream.step(frames(1)[0]).labels
        second = stream.step(frames(2)[1]).labels
        assert np.shares_memory(first, second)
        assert stream.sibling().reuse


def test_logits_are_copied_when_they_are_read(toy: Path) -> None:
    images = frames(3)
    with streamseg.open(toy) as stream:
        results = [stream.step(image) for image in images[:1]]
        kept = results[0].logits
        assert kept is not None
        before = kept.copy()
        late = stream.step(images[1])
        stream.step(images[2])
        np.testing.assert_array_equal(kept, before)
        assert results[0].logits is kept
        with pytest.raises(
            StreamsegError, match="are gone: read them before the stream's next step"
        ):
            _ = late.logits


def test_confidence_belongs_to_the_caller(toy: Path) -> None:
    images = frames(2)
    with streamseg.open(toy) as stream:
        stream.step(images[0])
        first = stream.confidence()
        before = first.copy()
        stream.step(images[1])
        stream.confidence()
        np.testing.assert_array_equal(first, before)


def test_step_from_a_second_thread_is_an_error(toy: Path) -> None:
    images = frames(2)
    with streamseg.open(toy) as stream:
        entered, leave = threading.Event(), threading.Event()
        start = stream._stepper.start

        def slow(*_: object) -> int:
            entered.set()
            leave.wait(20)
            return start()

        stream._stepper.start = slow  # type: ignore[method-assign]
        errors: list[str] = []

        def intrude() -> None:
            entered.wait(20)
            for call in (lambda: stream.step(images[1]), stream.reset, stream.snapshot):
                with pytest.raises(StreamsegError) as caught:
                    call()
                errors.append(str(caught.value))
            leave.set()

        thread = threading.Thread(target=intrude)
        thread.start()
        labels = stream.step(images[0]).labels
        thread.join()
        assert len(errors) == 3
        assert all("another thread is using this stream" in error for error in errors)
        np.testing.assert_array_equal(labels, ToyReference().step(images[0]).argmax(0))
        assert stream.steps == 1

"""A stream: one video's frames through a bundle, state kept between them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamseg.counting import count_of
from streamseg.errors import BackendError, StreamsegError
from streamseg.runtime.backends import BackendOptions, Executable, load_streams
from streamseg.runtime.backends.arrays import keeps_stream, stream_handle, view_device_array
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.bundle.state import StateSnapshot
from streamseg.runtime.step_result import BegunStep, DeviceStepResult, StepResult
from streamseg.runtime.stepper import Stepper
from streamseg.runtime.thread_guard import ThreadGuard
from streamseg.runtime.video.confidence import ConfidenceMaps
from streamseg.runtime.video.frame_check import as_batch, check_frame
from streamseg.runtime.video.resize import FitMode, FittedFrame, FrameFitter, fit_frames

if TYPE_CHECKING:
    from streamseg.runtime import Event, LiveView, RunReport, StatePolicy
    from streamseg.runtime.sources import Source


class Stream(contextlib.AbstractContextManager["Stream"]):
    """Segments frames one by one; made by ``streamseg.open``.

    One stream belongs to one thread at a time: a second thread that enters it meanwhile gets a
    StreamsegError. Several streams may share an executable (``Stream.sibling``).

    Attributes:
        reuse: results are views of the stream's own buffers, valid until its next step.
    """

    def __init__(
        self,
        executable: Executable,
        manifest: Manifest,
        *,
        identity: str,
        letterbox: bool = False,
        reuse: bool = False,
        owner: bool = True,
        given: Mapping[str, npt.NDArray[np.generic]] | None = None,
    ) -> None:
        self.manifest = manifest
        self.identity = identity
        self.reuse = reuse
        self.token = object()  # of the last result; another one once its buffers may change
        self._guard = ThreadGuard()
        self._executable = executable
        self._owner = owner
        self._mode: FitMode = "letterbox" if letterbox else "stretch"
        self._lane = executable.new_lane()
        self._make_fitter = partial(fit_frames, manifest.frame, self._mode)
        self._stepper = Stepper(manifest, self._lane, given)
        self._under_way: deque[BegunStep] = deque()
        self._fitter: FrameFitter | None = None
        self._fitter_ahead: FrameFitter | None = None  # of the thread that calls fit_ahead
        self._shown: FrameFitter | None = None  # of the last result
        self._confidence = ConfidenceMaps(self._make_fitter)
        self._finished_at = 0.0
        self._closed = False

    @property
    def execution(self) -> str:
        """What runs: backend, version, device, kernels."""
        return self._executable.description

    @property
    def steps(self) -> int:
        """Frames processed since the last reset."""
        return self._stepper.step

    @property
    def parallel(self) -> int:
        """Steps of different streams over this executable that run at once."""
        return self._executable.parallel

    @property
    def depth(self) -> int:
        """Steps that may be under way at once."""
        return self._lane.depth

    @property
    def patience(self) -> float:
        """Seconds for which the oldest step begun waits for frames of other streams."""
        return self._lane.patience

    def step(self, frame: npt.NDArray[np.uint8]) -> StepResult:
        """Segment the next frame.

        Args:
            frame: ``[height, width, 3]`` uint8 RGB, any size.
        Raises:
            FrameMismatch: the frame has another shape or dtype.
            StateMismatch: a given state has not been set.
            BackendError: the backend failed, or steps are under way.
        """
        with self._alone():
            if self._under_way:
                raise BackendError("a step is under way; finish it before the next")
            self.begin(frame)
            return self.finish()

    def fit_ahead(self, frame: npt.NDArray[np.uint8]) -> FittedFrame:
        """Bring a frame to the model's size before its step, beside the one under way.

        May be called in another thread than the steps, by one thread at a time.

        Args:
            frame: ``[height, width, 3]`` uint8 RGB, any size.
        Raises:
            FrameMismatch: the frame has another shape or dtype.
        """
        check_frame(frame)
        size = (frame.shape[0], frame.shape[1])
        if self._fitter_ahead is None or self._fitter_ahead.frame_size != size:
            self._fitter_ahead = self._make_fitter(size)
        image = np.empty(self.manifest.frame.shape[1:], np.uint8)
        self._fitter_ahead.fit(frame, image)
        return FittedFrame(self._fitter_ahead, image)

    def begin(
        self,
        frame: npt.NDArray[np.uint8],
        *,
        graph: str | None = None,
        fitted: FittedFrame | None = None,
    ) -> None:
        """Begin the step of the next frame and return, where ``depth`` steps are not under way.

        The frame is copied; ``reset``, ``snapshot``, ``restore`` and ``is_finite`` take effect
        after the steps begun so far. ``graph`` overrides the schedule (``adaptation.key_pair``);
        ``fitted`` is what ``fit_ahead`` made of the frame.

        Raises:
            FrameMismatch, StateMismatch, BackendError: as ``step``.
        """
        with self._alone():
            check_frame(frame)
            self._stepper.require_given()
            if len(self._under_way) == self._lane.depth:
                raise BackendError(
                    f"{count_of(self._lane.depth, 'step')} are under way; finish one first"
                )
            self.token = object()
            started = time.perf_counter()
            if fitted is None:
                fitter = self._fitter_of((frame.shape[0], frame.shape[1]))
                fitter.fit(frame, self._lane.frame)
            else:
                fitter = fitted.fitter
                np.copyto(self._lane.frame, fitted.image)
            ready = time.perf_counter()
            number = self._stepper.start(graph)
            self._under_way.append(BegunStep(frame, fitter, number, started, ready))

    def finish(self) -> StepResult:
        """Wait for the oldest step under way; its arrays are valid until the next ``finish``.

        Raises:
            BackendError: the step failed, or there is no step under way.
        """
        with self._alone():
            if not self._under_way:
                raise BackendError("no step is under way; begin one first")
            begun = self._under_way.popleft()
            self._lane.finish()
            stepped = time.perf_counter()
            labels = begun.fitter.restore(self._lane.labels)
            # A step that waited for the one before it ran only from then on.
            since = max(begun.fitted, self._finished_at)
            self._finished_at, self._shown, self.token = stepped, begun.fitter, object()
            timings = {
                "preprocess": begun.fitted - begun.started + time.perf_counter() - stepped,
                "step": stepped - since,
            }
            owned = labels if self.reuse else labels.copy()
            return StepResult(
                owned,
                begun.frame,
                self.manifest.classes,
                step=begun.step,
                timings=timings,
                placement=begun.fitter.placement,
                read_logits=partial(self.read_logits, self.token),
            )

    def read_logits(self, token: object) -> npt.NDArray[np.float32] | None:
        """The logits of the result that has this token; see ``StepResult.logits``."""
        with self._alone():
            if token is not self.token:
                raise StreamsegError(
                    "the logits of this result are gone: read them before the stream's next step"
                )
            logits = self._lane.read_logits()
            return logits if logits is None or self.reuse else logits.copy()

    def steps_through(self, frames: Iterable[npt.NDArray[np.uint8]]) -> Iterator[StepResult]:
        """Segment frames one after the other, uploads and downloads beside the steps.

        Where the backend overlaps steps (TensorRT), a result comes when the next frame has been
        given; elsewhere this is ``step`` in a loop. Use the stream for nothing else until the
        iterator has ended or was closed.

        Args:
            frames: as ``step`` takes them.
        Raises:
            FrameMismatch, StateMismatch, BackendError: as ``step``.
        """
        try:
            for frame in frames:
                self.begin(frame)
                if len(self._under_way) == self._lane.depth:
                    yield self.finish()
            while self._under_way:
                yield self.finish()
        finally:
            while self._under_way and not self._closed:
                with contextlib.suppress(BackendError):
                    self.finish()

    def run(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        out: str | os.PathLike[str] | None = None,
        labels: str | os.PathLike[str] | None = None,
        areas: str | os.PathLike[str] | None = None,
        sheet: str | os.PathLike[str] | None = None,
        show: bool | LiveView = False,
        frames: int | None = None,
        policy: StatePolicy | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> RunReport:
        """Segment a whole source and write what is requested, as ``streamseg run`` does.

        The state starts empty, and is reset at scene cuts and gaps.

        Args:
            source: what ``streamseg.open_source`` takes, or what it returned.
            out: overlay video (.mp4, .mov, .mkv), folder, or picture (.png, .jpg) of one frame.
            labels: folder for label maps, one 8-bit PNG a frame.
            areas: file to append each frame's share of every class to, JSON lines.
            sheet: contact sheet (.png).
            show: open a window with the pictures, which Escape or q ends; or a view such as the
                page, from ``streamseg.serving.open_viewer``.
            frames: stop after so many.
            policy: what resets the state.
            on_event: gets resets, losses and other events; without it they are logged.
        Raises:
            SourceError: the source cannot be opened or read.
            SinkError: an output cannot be written, or a window cannot be opened.
            BackendError: a step failed.
        """
        from streamseg import runtime  # the loop is above the stream

        self.reset()
        outputs = runtime.RecordOptions(out, labels, areas, sheet, show)
        return runtime.record_stream(
            self, source, outputs, frames=frames, policy=policy, on_event=on_event
        )

    def step_device(self, frame: object, *, stream: object = None) -> DeviceStepResult:
        """Segment a frame that lies in device memory; neither it nor the labels visit the host.

        The step waits for the work so far of the stream that the frame is made on, and later work
        of that stream waits for the step. That stream is ``stream``, else the one that the array
        names. DLPack arrays are ready for the step in any case; later work of the default stream
        waits for it. The device is synchronised where an array names no stream and has no DLPack
        (PyCUDA's) and ``stream`` is not given. At most two steps run ahead of the host.

        Args:
            frame: ``[H, W, 3]`` or ``[1, H, W, 3]`` uint8 RGB of the model's size, dense, by
                DLPack or ``__cuda_array_interface__`` (CuPy, torch, pycuda, numba).
            stream: the CUDA stream on which the caller makes the frame and reads labels: a
                stream of torch, CuPy, pycuda or numba, or its handle. An object is kept until the
                labels are overwritten, and only readers on it are waited for; readers on another
                stream, which may be destroyed by then, cost a wait for the whole device.
        Raises:
            FrameMismatch: another shape, dtype, layout or device.
            StateMismatch: a given state has not been set.
            BackendError: the backend failed, or keeps no arrays on a device.
        """
        with self._alone():
            self.token = object()
            return self._step_device(frame, stream)

    def _step_device(self, frame: object, stream: object) -> DeviceStepResult:
        self._stepper.require_given()
        handle = 0 if stream is None else stream_handle(stream)
        borrowed = view_device_array(frame, self._lane.stream, handle)
        if keeps_stream(stream):
            borrowed = replace(borrowed, stream_owner=stream)
        labels, number = self._stepper.run_device(as_batch(borrowed, self.manifest.frame))
        return DeviceStepResult(labels, number)

    def confidence(self) -> npt.NDArray[np.uint8]:
        """Confidence in the last step's labels: 255 times their probability.

        Returns: (height, width) uint8 at the frame's size; with ``reuse`` until the next call.
        Raises:
            StreamsegError: the bundle gives no logits, or no frame was stepped yet.
        """
        with self._alone():
            confidence = self._confidence_of_last()
            return confidence if self.reuse else confidence.copy()

    def _confidence_of_last(self) -> npt.NDArray[np.uint8]:
        logits = self._lane.read_logits()
        if logits is None:
            raise StreamsegError(
                "this bundle gives no logits, which confidences are made from; "
                "export it again with --logits"
            )
        if self._shown is None:
            raise StreamsegError("no frame was segmented yet")
        return self._confidence.draw(logits, self._shown.frame_size)

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a new video."""
        with self._alone():
            self._stepper.reset()

    def give(self, name: str, content: npt.NDArray[np.generic]) -> None:
        """Set a state of kind ``given``; it holds until it is given again, resets included.

        Raises:
            StateMismatch: there is no such state, or it has another shape or dtype.
        """
        with self._alone():
            self._stepper.give(name, content)

    def read(self, name: str) -> npt.NDArray[np.generic]:
        """A copy of one state as the next step will find it; a ring has its slots in front.

        Raises:
            StateMismatch: the bundle has no such state.
        """
        with self._alone():
            return self._stepper.read_state(name)

    def is_finite(self) -> bool:
        """Whether the state holds no NaN and no infinity; looks where the state lives."""
        with self._alone():
            return self._stepper.is_finite()

    @property
    def remembers(self) -> bool:
        """Whether a frame's result depends on earlier frames."""
        return any(spec.kind != "given" for spec in self.manifest.state)

    def snapshot(self) -> StateSnapshot:
        """Copy the state; ``restore`` continues from it bit for bit."""
        with self._alone():
            return StateSnapshot(self._stepper.step, self._stepper.read(), self.identity)

    def restore(self, snapshot: StateSnapshot) -> None:
        """Continue from a snapshot of this bundle, taken from this stream or another.

        Raises:
            StateMismatch: it is of another bundle, or its tensors do not fit the state table.
        """
        with self._alone():
            snapshot.check(self.manifest.state, self.identity)
            self._stepper.write(snapshot.tensors, snapshot.step)

    def sibling(self) -> Stream:
        """Another stream over the same executable, with its own empty state.

        It must not be used after this stream is closed.
        """
        self._require_open()
        return Stream(
            self._executable,
            self.manifest,
            identity=self.identity,
            letterbox=self._mode == "letterbox",
            reuse=self.reuse,
            owner=False,
            given=self._stepper.given,
        )

    def close(self) -> None:
        """Release buffers and backend; closing twice is fine."""
        with self._guard.wait():  # for another thread's step
            if not self._closed:
                self._lane.close()
                if self._owner:
                    self._executable.close()
            self._closed = True

    def __repr__(self) -> str:
        model, spec = self.manifest.model, self.manifest.frame
        name = " ".join(str(model[key]) for key in ("family", "encoder") if key in model)
        state = "closed" if self._closed else f"step {self.steps}"
        return (
            f"Stream({name}, "
            f"{count_of(len(self.manifest.classes), 'class')}, {spec.height}x{spec.width}, "
            f"{self.execution}, {state})"
        )

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._guard.enter():
            self._require_open()
            yield

    def _require_open(self) -> None:
        if self._closed:
            raise StreamsegError("the stream is closed; open the bundle again")

    def _fitter_of(self, frame_size: tuple[int, int]) -> FrameFitter:
        if self._fitter is None or self._fitter.frame_size != frame_size:
            self._fitter = self._make_fitter(frame_size)
        return self._fitter


def open_stream(
    bundle: str | os.PathLike[str],
    *,
    backend: str = "auto",
    native: bool | None = None,
    library: str | os.PathLike[str] | None = None,
    letterbox: bool | None = None,
    reuse: bool = False,
    threads: int | None = None,
    engine: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: str | None = None,
    parallel: int | None = None,
    batch_wait_ms: float | None = None,
) -> Stream:
    """Open a bundle for streaming; exported as ``streamseg.open``.

    Args:
        bundle: folder that ``streamseg export`` wrote, or ``hf:ORG/NAME`` of a bundle on a hub;
            ``hf:ORG/NAME@COMMIT`` opens the same files every time.
        backend: ``auto`` or one of ``streamseg.runtime.backends.BACKENDS``.
        native: use the native operators: ``None`` if their library is there, ``True`` or fail,
            ``False`` never (the graph's own lowering to standard ops runs).
        library: absolute path of a native library instead of the installed one.
        letterbox: keep the aspect of frames; ``None`` follows the bundle's resize rule.
        reuse: hand out views of the stream's own buffers, valid until its next step, instead of
            arrays that belong to the caller.
        threads: CPU threads of one step; ``None`` leaves it to the backend.
        engine: TensorRT engine file, or the folder of several; ``None`` searches the cache.
        device: OpenVINO's name of a device, such as ``CPU`` or ``GPU.1``.
        precision: OpenVINO's arithmetic: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        parallel: steps of this stream's siblings that run at once, each on ``threads`` threads;
            only on the CPU.
        batch_wait_ms: milliseconds that a batch waits for frames of further streams before it
            runs without them, for a bundle exported with ``--batch``; by default 10.
    Raises:
        BundleError: the bundle is damaged or disagrees with its graphs.
        EngineMismatch: an engine is missing, damaged or of another machine.
        BackendError: the backend is missing or refuses a graph.
        PluginNotFound: ``native=True`` and there is no usable library.
    """
    opened = read_bundle(bundle)
    options = BackendOptions(
        native=native,
        library=None if library is None else Path(library),
        threads=threads,
        engine=None if engine is None else Path(engine),
        device=device,
        precision=precision,
        parallel=parallel,
        batch_wait_ms=batch_wait_ms,
    )
    executable, manifest = load_streams(opened, backend, options)
    if letterbox is None:
        letterbox = manifest.frame.resize == "letterbox"
    return Stream(
        executable,
        manifest,
        identity=opened.identity,
        letterbox=letterbox,
        reuse=reuse,
        given=opened.given,
    )

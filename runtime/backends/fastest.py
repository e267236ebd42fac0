"""The faster of the CPU's backends for a bundle on this machine: measured once, then remembered."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from streamseg.errors import BackendError, StreamsegError
from streamseg.files import make_folder, whole_file
from streamseg.runtime.backends.interface import BackendOptions, Executable, plan_step
from streamseg.runtime.backends.onnxruntime import load_onnxruntime
from streamseg.runtime.backends.openvino import load_openvino
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

# Steps of one backend: enough to tell which is faster, few enough not to be noticed.
ROUNDS = 7
WARM_UP = 2
SECONDS = 4.0
_LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}


@dataclass(frozen=True)
class Measurement:
    """Median milliseconds of a step of each backend."""

    medians: Mapping[str, float]

    @property
    def fastest(self) -> str:
        """Name of the backend with the smallest median."""
        return min(self.medians, key=lambda name: self.medians[name])

    def describe(self) -> str:
        """``openvino 25.3 ms a step, onnxruntime 40.1``."""
        order = sorted(self.medians, key=lambda name: self.medians[name])
        first, *others = (f"{name} {self.medians[name]:.1f}" for name in order)
        return ", ".join([f"{first} ms a step", *others])


def load_fastest(bundle: Bundle, options: BackendOptions) -> Executable:
    """Load the bundle into the faster one of the installed CPU backends.

    Without a choice of precision both compute in float32, so that speed alone is compared: which
    labels come out must not depend on what is installed. With one, only OpenVINO has it.

    Raises:
        BackendError: no backend is installed, or none loads the bundle.
    """
    options = replace(options, precision=options.precision or "f32")
    names = [name for name in _LOADERS if importlib.util.find_spec(name) is not None]
    if options.precision != "f32" and "openvino" in names:
        return _load("openvino", bundle, options)
    if options.library is not None or names != list(_LOADERS):
        # A library is ONNX Runtime's unless OpenVINO is named.
        only = "openvino" if names == ["openvino"] else "onnxruntime"
        return _load(only, bundle, options)
    place = _record_of(bundle, options)
    known = _read(place)
    if known is not None:
        return _named(_load(known.fastest, bundle, options), known)
    return _measure_and_load(bundle, options, place)


def _load(name: str, bundle: Bundle, options: BackendOptions) -> Executable:
    if name == "onnxruntime":
        if options.precision != "f32":
            raise BackendError(
                f"precision '{options.precision}' needs OpenVINO. Run: pip install "
                "'streamseg[openvino]'"
            )
        options = replace(options, precision=None)
    return _LOADERS[name](bundle, options)


def _measure_and_load(bundle: Bundle, options: BackendOptions, place: Path) -> Executable:
    loaded: dict[str, Executable] = {}
    failures = {}
    for name in _LOADERS:
        try:
            loaded[name] = _load(name, bundle, options)
        except StreamsegError as error:
            failures[name] = error
            logger.warning("backend %s was not measured: %s", name, error)
    if not loaded:
        raise next(iter(failures.values()))
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    found = measure(loaded, bundle.manifest)
    _write(place, found)
    for name, executable in loaded.items():
        if name != found.fastest:
            executable.close()
    return _named(loaded[found.fastest], found)


def _named(executable: Executable, found: Measurement) -> Executable:
    executable.description += f"; chosen by measurement: {found.describe()}"
    logger.info("chosen by measurement: %s", found.describe())
    return executable


def measure(executables: Mapping[str, Executable], manifest: Manifest) -> Measurement:
    """Time steps of several backends in turn, on noise and scratch state.

    Args:
        executables: by name; each gets a lane that is closed in the end.
        manifest: of the bundle that all have loaded.
    """
    lanes = {name: executable.new_lane() for name, executable in executables.items()}
    noise = np.random.default_rng(0).integers(0, 256, manifest.frame.shape[1:], dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in lanes}
    end = time.monotonic() + SECONDS
    try:
        for step in range(WARM_UP + ROUNDS):
            for name, lane in lanes.items():
                lane.frame[...] = noise
                start = time.perf_counter()
                lane.start(plan_step(manifest, step))
                lane.finish()
                times[name].append((time.perf_counter() - start) * 1e3)
            if step > WARM_UP and time.monotonic() > end:
                break
    finally:
        for lane in lanes.values():
            lane.close()
    return Measurement({name: median(taken[WARM_UP:]) for name, taken in times.items()})


def _record_of(bundle: Bundle, options: BackendOptions) -> Path:
    """Where the choice for this bundle, machine, set of versions and options is remembered."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    facts = [bundle.identity, *map(str, (options.native, options.threads, os.cpu_count()))]
    facts += [importlib.import_module(name).__version__ for name in _LOADERS]
    facts.append(_processor())
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    return Path(base) / "streamseg" / "choices" / f"{name}.json"


def _processor() -> str:
    """Model and instruction sets, as far as Linux says; they decide what is faster."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _read(place: Path) -> Measurement | None:
    try:
        medians = json.loads(place.read_text(encoding="utf-8"))
        found = {name: float(medians[name]) for name in _LOADERS}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return Measurement(found)


def _write(place: Path, found: Measurement) -> None:
    """Remember a choice; where it cannot be written, the next start measures again."""
    try:
        make_folder(place.parent, BackendError)
        with whole_file(place, BackendError) as draft:
            draft.write_text(json.dumps(dict(found.medians)) + "\n", encoding="utf-8")
    except BackendError as error:
        logger.warning("the choice of a backend is not remembered: %s", error)

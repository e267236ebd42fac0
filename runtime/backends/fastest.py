"""The faster of the CPU's backends for a bundle on this machine: measured once, then remembered."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

from streamseg.errors import BackendError, StreamsegError
from streamseg.installation import install_command
from streamseg.runtime.backends import choices
from streamseg.runtime.backends.interface import BackendOptions, Executable, require_threads
from streamseg.runtime.backends.onnxruntime import load_onnxruntime
from streamseg.runtime.backends.openvino import load_openvino
from streamseg.runtime.backends.step_times import Measurement, measure
from streamseg.runtime.bundle.bundle import Bundle

logger = logging.getLogger(__name__)

_LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}


def load_fastest(bundle: Bundle, options: BackendOptions) -> Executable:
    """Load the bundle into the faster one of the installed CPU backends.

    Without a choice of precision both compute in float32, so that speed alone is compared: which
    labels come out must not depend on what is installed. With one, only OpenVINO has it.

    Raises:
        BackendError: no backend is installed, or none loads the bundle.
    """
    require_threads(options)
    options = replace(options, precision=options.precision or "fp32")
    names = [name for name in _LOADERS if importlib.util.find_spec(name) is not None]
    if options.precision != "fp32" and "openvino" in names:
        return _load("openvino", bundle, options)
    if options.library is not None or names != list(_LOADERS):
        # A library is ONNX Runtime's unless OpenVINO is named.
        only = "openvino" if names == ["openvino"] else "onnxruntime"
        return _load(only, bundle, options)
    place = _record_of(bundle, options)
    kept = choices.recall(place, _LOADERS)
    if kept is not None:
        known = Measurement(kept)
        return _named(_load(known.fastest, bundle, options), known)
    return _measure_and_load(bundle, options, place)


def _load(name: str, bundle: Bundle, options: BackendOptions) -> Executable:
    if name == "onnxruntime":
        if options.precision != "fp32":
            raise BackendError(
                f"precision '{options.precision}' needs OpenVINO. "
                f"Run: {install_command('openvino')}"
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
    choices.remember(place, found.medians)
    for name, executable in loaded.items():
        if name != found.fastest:
            executable.close()
    return _named(loaded[found.fastest], found)


def _named(executable: Executable, found: Measurement) -> Executable:
    executable.description += f"; chosen by measurement: {found.describe()}"
    logger.info("chosen by measurement: %s", found.describe())
    return executable


def _record_of(bundle: Bundle, options: BackendOptions) -> Path:
    """Where the choice for this bundle, machine, set of versions and options is remembered."""
    versions = [importlib.import_module(name).__version__ for name in _LOADERS]
    return choices.place_of_steps(bundle, options, versions)

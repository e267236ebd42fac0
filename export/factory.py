"""Models from Python: ``package.module:function`` instead of a checkpoint."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamseg.errors import CheckpointError
from streamseg.export.checkpoint import load_checkpoint
from streamseg.export.step import StepModel
from streamseg.runtime.bundle.hub_bundle import is_hub_name

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PARAMETERS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def is_factory(text: str | os.PathLike[str]) -> bool:
    """Whether ``text`` names a function, such as ``my_package.model:build``, and no file."""
    name = str(text)
    return bool(_FACTORY.fullmatch(name)) and not is_hub_name(name) and not Path(text).exists()


def load_model(
    subject: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    override: bool = False,
) -> StepModel:
    """The model of a checkpoint, or the one that a function of an installed package builds.

    Args:
        subject: what ``load_checkpoint`` takes, or ``package.module:function``. The current
            directory is searched for the module first.
        settings: as in ``load_checkpoint``; for a function its keyword arguments, text being read
            as JSON where it is JSON.
        override: as in ``load_checkpoint``.
    Raises:
        CheckpointError: as ``load_checkpoint``; the module or function is missing or fails, or it
            returns something else than a ``StepModel``.
    """
    if not is_factory(subject):
        return load_checkpoint(subject, settings=settings, override=override)
    text = str(subject)
    build = _find(text)
    arguments = _read_arguments(text, build, settings or {})
    try:
        model = build(**arguments)
    except Exception as error:
        raise CheckpointError(f"{text} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, StepModel):
        raise CheckpointError(
            f"{text} returned {type(model).__name__}, expected a streamseg.export.StepModel"
        )
    if model.origin.source == "unknown":
        model.origin = type(model.origin)(source=text, license=model.origin.license)
    return model.eval()


def _find(text: str) -> Callable[..., Any]:
    module_name, _, function = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise CheckpointError(
            f"{text}: module '{module_name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    build = getattr(module, function, None)
    if not callable(build):
        raise CheckpointError(f"{text}: module '{module_name}' has no function '{function}'")
    found: Callable[..., Any] = build
    return found


def _read_arguments(
    text: str, build: Callable[..., Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    known = [p.name for p in inspect.signature(build).parameters.values() if p.kind in _PARAMETERS]
    for name in settings:
        if name not in known:
            raise CheckpointError(
                f"{text} has no argument '{name}'; its arguments: {', '.join(known) or 'none'}"
            )
    return {name: _read_value(value) for name, value in settings.items()}


def _read_value(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value

"""Backbones of transformers under a fake mode, whose tensors have sizes and no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

Backbone = TypeVar("Backbone", bound=nn.Module)


def build_backbone(build: Callable[[], Backbone]) -> Backbone:
    """What ``build`` makes; under a fake mode, with fake parameters and buffers.

    transformers reads drop rates and initial values off tensors as it builds, which fake tensors
    cannot give, so the modules are built outside the mode.
    """
    mode = active_fake_mode()
    with unset_fake_temporarily():
        backbone = build()
        if mode is not None:
            for module in backbone.modules():
                _replace_tensors(module, mode.from_tensor)
    return backbone


def _replace_tensors(module: nn.Module, convert: Callable[[Any], Any]) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(convert(parameter.detach())))
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, convert(buffer))

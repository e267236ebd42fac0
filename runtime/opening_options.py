"""How a bundle is opened: the options of ``streamseg.open``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamseg.errors import BackendError
from streamseg.option_fields import check_options, option, option_fields
from streamseg.runtime.backends import BACKENDS, BackendOptions


@dataclass(frozen=True, kw_only=True)
class OpeningOptions(BackendOptions):
    """How a bundle is opened: the arguments of ``streamseg.open``.

    Raises:
        BackendError: a value is out of its range.
    """

    backend: str = option(
        "Backend that runs the graphs.", default="auto", choices=BACKENDS, common=True
    )
    letterbox: bool | None = option(
        "Keep the aspect ratio of frames, or stretch them.",
        default=None,
        opposite="stretch",
        unset="as the bundle says",
    )

    def __post_init__(self) -> None:
        check_options(self, BackendError)

    @property
    def arguments(self) -> dict[str, Any]:
        """Argument of ``streamseg.open`` -> its value."""
        return {entry.name: getattr(self, entry.name) for entry in option_fields(OpeningOptions)}

"""The options of sources that several sub-commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from streamseg.runtime.sources import SourceOptions

SOURCE_HELP = (
    "Video file, folder of images, camera number, rtsp://, http://, udp://, gst:PIPELINE or "
    "synthetic:SCENE; options for this source alone go after '#'."
)
# Name of the argument -> the option; the command gets one SourceArguments instead of all these.
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "start": click.option(
        "--start", type=click.FloatRange(min=0), default=0.0, help="Begin after so many seconds."
    ),
    "loop": click.option("--loop", is_flag=True, help="Begin again where a file ends."),
    "fps": click.option(
        "--fps",
        type=click.FloatRange(0.001, 1000),
        help="At most so many frames a second of source time; the rate of a folder.",
    ),
    "realtime": click.option(
        "--realtime", is_flag=True, help="Play a file at its own pace, as a camera would."
    ),
    "when_behind": click.option(
        "--when-behind",
        type=click.Choice(["drop", "wait"]),
        help="Drop frames for the newest, or let the source wait. [default: drop if it is live]",
    ),
    "max_latency_ms": click.option(
        "--max-latency-ms",
        type=click.FloatRange(min=0, min_open=True),
        help="Count label maps that are ready later than this after their frame arrived.",
    ),
    "timeout": click.option(
        "--timeout",
        type=click.FloatRange(0.1, 3600),
        default=5.0,
        show_default=True,
        help="Seconds without data after which a connection is lost.",
    ),
    "reconnect": click.option(
        "--reconnect",
        type=click.IntRange(min=0),
        help="Attempts in a row to get a lost live source back. [default: no limit]",
    ),
    "backoff": click.option(
        "--backoff",
        type=click.FloatRange(0.1, 3600),
        default=30.0,
        show_default=True,
        help="Longest pause between two attempts, seconds.",
    ),
    "await_source": click.option(
        "--await-source", is_flag=True, help="Wait for a live source that is not there yet."
    ),
    "transport": click.option(
        "--transport",
        type=click.Choice(["tcp", "udp"]),
        default="tcp",
        show_default=True,
        help="Transport of RTSP.",
    ),
    "private_redirects": click.option(
        "--private-redirects",
        is_flag=True,
        help="Follow HTTP redirects to private addresses of other hosts.",
    ),
    "decode": click.option(
        "--decode",
        default="software",
        show_default=True,
        help="software, auto (hardware if there is any), or a device such as cuda or vaapi.",
    ),
}


@dataclass(frozen=True)
class SourceArguments:
    """What the shared options say.

    Attributes:
        uris: the addresses, at least one.
        when_behind: ``drop``, ``wait``, or None to let the source decide.
        max_latency: seconds, or None.
    """

    uris: tuple[str, ...]
    when_behind: Literal["drop", "wait"] | None
    max_latency: float | None
    settings: dict[str, Any]

    def options(self) -> SourceOptions:
        """The options of every source; its own address may change them."""
        from streamseg.runtime.sources import SourceOptions

        return SourceOptions(**self.settings)


def source_options(
    *, multiple: bool = False, required: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command ``--source`` and its settings as one argument ``source``.

    Args:
        multiple: ``--source`` may be given several times.
        required: it must be given.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, source: Any, **given: Any) -> Any:
            settings = {name: given.pop(name) for name in _OPTIONS}
            limit = settings.pop("max_latency_ms")
            uris = tuple(source) if multiple else () if source is None else (source,)
            arguments = SourceArguments(
                uris, settings.pop("when_behind"), None if limit is None else limit / 1e3, settings
            )
            return function(*args, source=arguments, **given)

        for option in reversed(_OPTIONS.values()):
            call = option(call)
        return click.option("--source", multiple=multiple, required=required, help=SOURCE_HELP)(
            call
        )

    return decorate

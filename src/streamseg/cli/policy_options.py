"""The options of state: when it is forgotten, written and read."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg.errors import StreamsegError
from streamseg.files import check_place

if TYPE_CHECKING:
    from streamseg.runtime.session.events import EventHandler
    from streamseg.runtime.session.policy import StatePolicy
    from streamseg.runtime.session.session import RunJob, Session
    from streamseg.runtime.stream import Stream

PLACE = click.Path(path_type=Path)


def _read_threshold(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """A number above 0, or ``off`` (as infinity)."""
    if value is None or value == "off":
        return None if value is None else math.inf
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise click.BadParameter(
            f"{value!r} is neither a number above 0 nor 'off'", context, parameter
        )
    return number


_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "gap_reset": click.option(
        "--gap-reset",
        callback=_read_threshold,
        metavar="SECONDS|off",
        default="1",
        show_default=True,
        help="Reset the state after so many seconds without a frame.",
    ),
    "scene_cut": click.option(
        "--scene-cut",
        callback=_read_threshold,
        metavar="SCORE|off",
        help="Reset the state at scene cuts of this score. [default: the bundle's]",
    ),
    "check_every": click.option(
        "--check-every",
        type=click.IntRange(min=0),
        default=25,
        show_default=True,
        help="Frames between two looks for NaN and infinity in the state; 0 = never.",
    ),
    "carry_below": click.option(
        "--carry-below",
        type=click.FloatRange(min=0, min_open=True),
        metavar="LEVELS",
        help="Carry labels on over frames that differ by less (0 to 255); up to 8 in a row.",
    ),
    "key_change": click.option(
        "--key-change",
        type=click.FloatRange(min=0, min_open=True),
        metavar="LEVELS",
        help="Choose key frames by this change, or every 10, instead of by the schedule.",
    ),
    "unsure_reset": click.option(
        "--unsure-reset",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="SHARE",
        help="Reset the state after labels of less mean confidence; needs logits.",
    ),
    "events": click.option(
        "--events", type=PLACE, help="Append every decision about the state, JSON lines."
    ),
    "snapshot": click.option(
        "--snapshot", type=PLACE, help="File for the state: at the end, and on SIGUSR2."
    ),
    "snapshot_every": click.option(
        "--snapshot-every",
        type=click.IntRange(min=1),
        help="Write the snapshot every so many frames as well.",
    ),
    "resume": click.option(
        "--resume",
        type=PLACE,
        help="Go on from a snapshot. The file of --snapshot may be missing: a fresh start then.",
    ),
}
# For commands that want these alone.
GAP_RESET, SCENE_CUT = _OPTIONS["gap_reset"], _OPTIONS["scene_cut"]


@dataclass(frozen=True)
class PolicyArguments:
    """What the shared options say."""

    gap_reset: float
    scene_cut: float | None
    check_every: int
    carry_below: float | None
    key_change: float | None
    unsure_reset: float | None
    events: Path | None
    snapshot: Path | None
    snapshot_every: int | None
    resume: Path | None

    @property
    def places(self) -> list[Path]:
        """Files that are written."""
        return [place for place in (self.events, self.snapshot) if place is not None]

    def check(self) -> None:
        """Raise click's UsageError where options contradict each other."""
        if self.snapshot_every is not None and self.snapshot is None:
            raise click.UsageError("--snapshot-every needs the file: give --snapshot")

    def policy(self) -> StatePolicy:
        """What resets the state."""
        from streamseg.runtime.session.adaptation import Adaptation
        from streamseg.runtime.session.policy import StatePolicy

        gap = None if self.gap_reset == math.inf else self.gap_reset
        adaptation = Adaptation(
            carry_below=self.carry_below,
            key_change=self.key_change,
            unsure_reset=self.unsure_reset,
        )
        return StatePolicy(gap, self.scene_cut, self.check_every, adaptation=adaptation)

    def session(
        self, stream: Stream, name: str, on_event: EventHandler, run_job: RunJob
    ) -> Session:
        """A session of ``stream`` under this policy, gone on from the snapshot asked for.

        Raises:
            StreamsegError: the snapshot cannot be written where it was asked for.
            StateMismatch: no snapshot to go on from, damaged, or of another bundle.
        """
        from streamseg.runtime.session.session import Session

        if self.snapshot is not None:
            check_place(self.snapshot, StreamsegError)
        session = Session(
            stream,
            self.policy(),
            name=name,
            on_event=on_event,
            snapshot=self.snapshot,
            snapshot_every=self.snapshot_every,
            run_job=run_job,
        )
        resume = self.resume
        if resume is not None and (resume != self.snapshot or resume.exists()):
            session.load(resume)
        return session


def policy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of state as one argument ``state``."""

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        settings = {name: given.pop(name) for name in _OPTIONS}
        return function(*args, state=PolicyArguments(**settings), **given)

    for option in reversed(_OPTIONS.values()):
        call = option(call)
    return call

"""How many steps fit into the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

# The first steps compile kernels and fill caches.
_MEASURED_FROM = 0.5


class Pace:
    """Measures the second half of a warm-up, in which the learning rate is the same for any length.

    Args:
        until: Unix time at which the run should end; None: nothing is measured.
        clock: seconds of Unix time.
    """

    def __init__(self, until: float | None, clock: Callable[[], float] = time.time) -> None:
        self._until = until
        self._clock = clock
        self._begin: tuple[int, float] | None = None

    def choose_steps(self, step: int, warmup: int) -> int | None:
        """Steps of the whole run, once, when the warm-up of ``warmup`` steps ends; else None.

        Args:
            step: steps done.
            warmup: two or more.
        """
        if self._until is None or step > warmup:
            return None
        now = self._clock()
        if self._begin is None and step >= warmup * _MEASURED_FROM:
            self._begin = step, now
        if step < warmup or self._begin is None or step == self._begin[0]:
            return None
        seconds = (now - self._begin[1]) / (step - self._begin[0])
        return step + max(1, int((self._until - now) / seconds))

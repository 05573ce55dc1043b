"""When a checkpoint is due: every so many steps, every so many minutes, whichever comes first."""

import time
from collections.abc import Callable


class Saving:
    """`steps` and `minutes` between two checkpoints; None: not for that reason."""

    def __init__(
        self,
        *,
        steps: int | None = None,
        minutes: float | None = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps: {steps!r} is less than 1")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"minutes: {minutes!r} is not positive")
        self._steps = steps
        self._seconds = None if minutes is None else 60 * minutes
        self._clock = clock
        self._last = clock()

    def begin(self) -> None:
        """Training begins now."""
        self._last = self._clock()

    def saved(self) -> None:
        """A checkpoint was written."""
        self._last = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        by_step = self._steps is not None and step % self._steps == 0
        return by_step or (self._seconds is not None and self._clock() - self._last >= self._seconds)

"""`--max-minutes`: training that fits into the time there is, with its learning rate decayed to the end.

The recipe's schedule runs over positions 0 to `total`. Within a budget each step may advance by more than one position,
so that warm-up and decay are run through in fewer steps; the learning rate never jumps, and the last step is at the end
of the decay whatever the budget was.
"""

import statistics
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import ConfigError

_MEASURED_STEPS = 8
_MEASURED_SHARE = 0.1  # of the time there is: long steps are not waited for
_SLACK = 0.05
_MARGIN = 1.2
_PUBLISHING_SECONDS = 30.0  # a fresh process imports torch and loads the version
_PUBLISHING_BYTES_PER_SECOND = 20e6  # written, made durable, hashed twice, read again
_RECENT = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which position of the recipe's schedule each step is at: straight lines between knots of (step, position)."""

    knots: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        rising = all(before <= after for before, after in pairwise(self.knots))
        if len(self.knots) < 2 or self.knots[0] != (0, 0.0) or not rising:
            raise ValueError(f"knots: {self.knots!r} do not rise from (0, 0)")

    @classmethod
    def full(cls, total: int) -> "Schedule":
        """The recipe's own schedule of `total` steps."""
        return cls(((0, 0.0), (total, float(total))))

    @property
    def end(self) -> int:
        """The number of steps to train."""
        return self.knots[-1][0]

    def position(self, step: int) -> float:
        """0 at the start and the full number of steps at the end; `step` itself where nothing was shortened."""
        for (x0, y0), (x1, y1) in pairwise(self.knots):
            if step < x1:
                return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
        return self.knots[-1][1]

    def ending_at(self, end: int, *, now: int) -> "Schedule":
        """The same up to step `now`, from there on straight to the end of the full schedule at step `end`."""
        assert now <= end <= self.end, "a schedule is only ever shortened"
        past = tuple(knot for knot in self.knots if knot[0] < now)
        return Schedule((*past, (now, self.position(now)), (end, self.knots[-1][1])))


def last_affordable(
    seconds: float, *, done: int, end: int, step_seconds: float, pauses: Sequence[int] = (), pause_seconds: float = 0.0
) -> int:
    """The last step, from `done` to `end`, that is reached in `seconds`, with a pause after each step in `pauses`."""

    def cost(step: int) -> float:
        return (step - done) * step_seconds + sum(done < pause <= step for pause in pauses) * pause_seconds

    return max(done, done + bisect_right(range(done, end + 1), seconds, key=cost) - 1)


def reserve_seconds(*, evaluation: float, model_bytes: int) -> float:
    """An estimate of what comes after training, on the safe side: `evaluation` is what the one before it has taken."""
    return _MARGIN * evaluation + _PUBLISHING_SECONDS + model_bytes / _PUBLISHING_BYTES_PER_SECOND


class Budget:
    """The time that a run may take, and how long its steps take.

    `seconds` counts from `started` (a reading of `clock`); of it, `reserve` is kept for what comes after training.
    `pause` is what one pause of training (an evaluation after an epoch) is expected to take until one was measured.
    """

    def __init__(
        self,
        seconds: float,
        *,
        reserve: float,
        started: float,
        pause: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < reserve < seconds:
            raise ConfigError(
                f"--max-minutes: evaluation and publishing alone take about {reserve / 60:.1f} minutes; "
                f"{seconds / 60:g} leave nothing to train in"
            )
        self._deadline = started + seconds - reserve
        self._pause = pause
        self._clock = clock
        self._start = self._mark = started
        self._first: float | None = None
        self._count = 0
        self._sum = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def begin(self) -> None:
        """Training begins now."""
        self._start = self._mark = self._clock()

    def step_done(self) -> None:
        """A step is over, and the next one begins."""
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        if self._first is None:  # it compiles and fills caches
            self._first = seconds
            return
        self._count += 1
        self._sum += seconds
        self._recent.append(seconds)

    def pause_done(self) -> None:
        """A pause is over; it began when the last step ended."""
        now = self._clock()
        self._pause = now - self._mark
        self._mark = now

    @property
    def measuring(self) -> bool:
        """Whether the first steps are still being measured."""
        return self._count < _MEASURED_STEPS

    def end(self, done: int, end: int, pauses: Sequence[int] = ()) -> int:
        """The step to end at: `end`, if that can be reached in time, else an earlier one, a little on the safe side."""
        left = self._deadline - self._mark
        if left <= 0:
            return done
        if not self._measured(left):
            return end
        costs = {"step_seconds": self._step_seconds(), "pause_seconds": self._pause}
        if last_affordable(left, done=done, end=end, pauses=pauses, **costs) == end:
            return end
        return last_affordable(left * (1 - _SLACK), done=done, end=end, pauses=pauses, **costs)

    def _measured(self, left: float) -> bool:
        spent = self._mark - self._start
        return not self.measuring or spent > _MEASURED_SHARE * (spent + left)

    def _step_seconds(self) -> float:
        """The mean sees what happens now and then, such as saving; the recent median sees a machine slow down."""
        if not self._count:
            return self._first or 0.0
        return max(self._sum / self._count, statistics.median(self._recent))

"""How often to do what the event loop is asked for again and again."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

# Of the event loop's time, at most: the rest is for whatever else comes.
_SHARE = 1 / 3
# Seconds that what was asked for waits at most, however busy the loop is.
_LONGEST_WAIT = 0.1


@dataclass(slots=True, eq=False)
class Pace:
    """Calls `act` when asked to: at once while the event loop has time to spare, else as soon as it has been busy for
    no more than its share of the time since the last call. What is asked for meanwhile, one call answers.

    `clock` is the time, `busy_clock` the time that the loop's thread has run; both in seconds.
    """

    act: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    busy_clock: Callable[[], float] = time.thread_time
    _acted_at: float = 0.0
    _busy_before: float = 0.0
    _no_later_than: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Soon."""
        if self._timer is None:
            self._no_later_than = self.clock() + _LONGEST_WAIT
            self._act_when_due()

    def _act_when_due(self) -> None:
        now, busy = self.clock(), self.busy_clock()
        due = min(self._no_later_than, self._acted_at + (busy - self._busy_before) / _SHARE)
        if now < due:
            # By then the loop may have been busy again.
            self._timer = asyncio.get_running_loop().call_later(due - now, self._act_when_due)
            return
        self._timer, self._acted_at, self._busy_before = None, now, busy
        self.act()

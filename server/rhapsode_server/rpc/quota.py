"""What a caller's token still allows: calls in a span of time, and calls at the same time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rhapsode_server.errors import LimitReached
from rhapsode_server.tokens import Rate

_NANOSECONDS = 10**9


@dataclass(slots=True, kw_only=True, eq=False)
class Quota:
    """Without limits by itself; `limit` gives it those of a token, also while calls run.

    The rate is kept by the generic cell rate algorithm (ITU-T I.371): each call is paid with its share of the span, and
    may be paid at most one span ahead.
    """

    rate: Rate | None = None
    concurrency: int | None = None
    clock: Callable[[], int] = time.monotonic_ns
    _num_open: int = 0
    _paid_until: int = 0

    def limit(self, rate: Rate | None, concurrency: int | None) -> None:
        """What holds from now on. Another rate begins anew; the same one goes on."""
        if rate != self.rate:
            self.rate, self._paid_until = rate, 0
        self.concurrency = concurrency

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call is in progress. Raises LimitReached, and then it counts for nothing."""
        if self.concurrency is not None and self._num_open >= self.concurrency:
            raise LimitReached(f"{self._num_open} calls of this token are open, as many as it may have")
        self._check_rate()
        self.charge(1)
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1

    def charge(self, calls: int) -> None:
        """So many count against the rate, even beyond it: later ones wait until they are paid."""
        if self.rate is not None:
            self._paid_until = max(self._paid_until, self.clock()) + calls * _share(self.rate)

    def width(self, wanted: int) -> int:
        """Of so many completions of one call, those that may run at the same time."""
        return wanted if self.concurrency is None else min(wanted, self.concurrency)

    def _check_rate(self) -> None:
        if self.rate is None:
            return
        ahead = max(0, self._paid_until - self.clock()) + _share(self.rate) - self.rate.seconds * _NANOSECONDS
        if ahead > 0:
            text = f"this token allows {self.rate.calls} calls in {self.rate.seconds} s"
            raise LimitReached(text, retry_after=ahead / _NANOSECONDS)


def _share(rate: Rate) -> int:
    """Nanoseconds of the span that a call takes."""
    return rate.seconds * _NANOSECONDS // rate.calls

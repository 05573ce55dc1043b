"""Progress of training: a bar on a terminal, plain lines elsewhere, and the status file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..status import Status

_PLAIN_LINES = 10


class Reporter(Protocol):
    """Told after each step how many steps of how many are done and what the loss (nats a token) was, if it is known."""

    def __call__(self, done: int, total: int, loss: float | None) -> None: ...


class Rate:
    """Steps a second by `clock`; those of an earlier attempt do not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._before: int | None = None
        self.steps_per_second = 0.0

    def update(self, done: int) -> None:
        """So many steps are done, counted from the first attempt."""
        if self._before is None:
            self._before = done - 1
        self.steps_per_second = (done - self._before) / max(self._clock() - self._start, 1e-9)


@contextmanager
def report_progress(
    console: Console,
    *,
    steps: int,
    tokens_per_step: float,
    status: Status | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Reporter]:
    """Shows rate and remaining time by `clock` until the block ends, and tells `status`."""
    with _shown(console, steps, tokens_per_step) as show:
        rate = Rate(clock)

        def report(done: int, total: int, loss: float | None) -> None:
            rate.update(done)
            show(done, total, loss, rate.steps_per_second)
            if status is not None:
                status.step(
                    done,
                    total,
                    loss,
                    eta_seconds=(total - done) / rate.steps_per_second,
                    tokens_per_second=tokens_per_step * rate.steps_per_second,
                )

        yield report


_Show = Callable[[int, int, float | None, float], None]


@contextmanager
def _shown(console: Console, steps: int, tokens_per_step: float) -> Iterator[_Show]:
    if not console.is_terminal:
        yield _plain(console, tokens_per_step)
        return
    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    times = (TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as progress:
        task = progress.add_task("train", total=steps, rate="")

        def show(done: int, total: int, loss: float | None, steps_per_second: float) -> None:
            progress.update(task, completed=done, total=total, rate=_rate(loss, tokens_per_step * steps_per_second))

        yield show


def _plain(console: Console, tokens_per_step: float) -> _Show:
    def show(done: int, total: int, loss: float | None, steps_per_second: float) -> None:
        if done < total and done * _PLAIN_LINES // total == (done - 1) * _PLAIN_LINES // total:
            return
        eta, rate = (total - done) / steps_per_second, _rate(loss, tokens_per_step * steps_per_second)
        console.print(f"train {done}/{total} ({done / total:.0%})  {rate}  eta {eta:.0f} s", highlight=False)

    return show


def _rate(loss: float | None, tokens_per_second: float) -> str:
    rate = f"{tokens_per_second:,.0f} tokens/s"
    return rate if loss is None else f"{rate}  loss {loss:.3f}"

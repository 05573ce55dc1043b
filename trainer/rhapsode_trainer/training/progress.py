"""Progress of a long phase: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_LINES = 10


class Reporter(Protocol):
    """Told after each step how many steps are done and what the loss (nats a token) was, if it is known."""

    def __call__(self, done: int, loss: float | None) -> None: ...


@contextmanager
def report_progress(console: Console, *, steps: int, tokens_per_step: int) -> Iterator[Reporter]:
    """Shows rate and remaining time until the block ends."""
    if not console.is_terminal:
        yield _plain_reporter(console, steps, tokens_per_step)
        return
    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    times = (TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as progress:
        task = progress.add_task("train", total=steps, rate="")
        start = time.monotonic()

        def report(done: int, loss: float | None) -> None:
            progress.update(task, completed=done, rate=_rate(done, loss, tokens_per_step, time.monotonic() - start))

        yield report


def _plain_reporter(console: Console, steps: int, tokens_per_step: int) -> Reporter:
    start = time.monotonic()

    def report(done: int, loss: float | None) -> None:
        if done * _PLAIN_LINES // steps == (done - 1) * _PLAIN_LINES // steps:
            return
        elapsed = time.monotonic() - start
        eta = elapsed / done * (steps - done)
        rate = _rate(done, loss, tokens_per_step, elapsed)
        console.print(f"train {done}/{steps} ({done / steps:.0%})  {rate}  eta {eta:.0f} s", highlight=False)

    return report


def _rate(done: int, loss: float | None, tokens_per_step: int, elapsed: float) -> str:
    rate = f"{done * tokens_per_step / max(elapsed, 1e-9):,.0f} tokens/s"
    return rate if loss is None else f"{rate}  loss {loss:.3f}"

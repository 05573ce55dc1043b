"""SIGTERM and SIGINT: noted at once, obeyed at the next safe place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether the run was asked to stop. Phases call `check` where they can be left without damage.

    `resumes_at` is the step of the newest checkpoint, for whoever reads why the run stopped.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.resumes_at: int | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raises Interrupted once a signal has arrived."""
        if self.signal is not None:
            start = "the beginning" if self.resumes_at is None else f"the checkpoint of step {self.resumes_at}"
            raise Interrupted(
                f"stopped by {self.signal.name}: nothing was published. The next run starts from {start}."
            )

    def note(self, number: int) -> None:
        """Asks the run to stop. The first signal is the one that is reported; further ones change nothing."""
        self.signal = self.signal or signal.Signals(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.note(number)


@contextmanager
def watch_signals() -> Iterator[Interruption]:
    """Catches the signals for the duration of the block; enter it before anything slow, on the main thread."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption._handle) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

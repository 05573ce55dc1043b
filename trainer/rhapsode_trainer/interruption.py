"""SIGTERM and SIGINT: noted at once, obeyed at the next safe place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether the run was asked to stop. Phases call `check` where they can be left without damage."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raises Interrupted once a signal has arrived."""
        if self.signal is not None:
            raise Interrupted(
                f"stopped by {self.signal.name}: nothing was published. The next run starts from the beginning."
            )

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)


@contextmanager
def watch_signals() -> Iterator[Interruption]:
    """Catches the signals for the duration of the block; enter it before anything slow, on the main thread."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption._note) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

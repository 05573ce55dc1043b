"""Time limits for another process, by the time in which this one runs.

When this process was stopped, or the machine slept, its clock may show that a limit has passed although the other
process had no chance to keep it. So a limit is waited for in parts: such a pause counts as one of them at most.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

_NUM_PARTS = 3


async def sleep_while_running(seconds: float) -> None:
    for _ in range(_NUM_PARTS):
        await asyncio.sleep(seconds / _NUM_PARTS)


@dataclass(slots=True, kw_only=True, eq=False)
class Heartbeat:
    """Asks by `ping` for a sign of life, at most once in a third of `timeout` seconds."""

    timeout: float
    ping: Callable[[], None]
    _heard: bool = False

    def hear(self) -> None:
        """It lives."""
        self._heard = True

    async def silence(self) -> None:
        """Until a ping, and everything else, was not answered for `timeout`."""
        while True:
            self._heard = False
            self.ping()
            for _ in range(_NUM_PARTS):
                await asyncio.sleep(self.timeout / _NUM_PARTS)
                if self._heard:
                    break
            else:
                return

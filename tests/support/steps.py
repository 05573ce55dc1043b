"""Waiting for what an engine does, step by step."""

import asyncio
from collections.abc import Callable

from rhapsode_server.engine.engine import EngineStats


class StepLog:
    """Collects the stats of every step; `until` waits for the first that fits."""

    def __init__(self) -> None:
        self.all: list[EngineStats] = []
        self._news = asyncio.Event()

    def __call__(self, stats: EngineStats, seconds: float) -> None:
        assert seconds > 0
        self.all.append(stats)
        self._news.set()

    async def until(self, fits: Callable[[EngineStats], bool]) -> EngineStats:
        async with asyncio.timeout(20):
            while not (self.all and fits(self.all[-1])):
                self._news.clear()
                await self._news.wait()
        return self.all[-1]

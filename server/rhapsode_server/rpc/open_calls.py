"""The calls in progress, and whether new ones are accepted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from rhapsode_server.errors import Draining


class OpenCalls:
    """Counts the calls in progress, so that a shutdown can refuse new ones and wait for these."""

    def __init__(self) -> None:
        self._count = 0
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A call is in progress."""
        self._count += 1
        self._none_open.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none_open.set()

    @property
    def count(self) -> int:
        return self._count

    def check_admission(self) -> None:
        """Raises Draining once draining."""
        if self._draining:
            raise Draining("the server is shutting down")

    def drain(self) -> None:
        """Refuse new calls from now on."""
        self._draining = True

    async def finished(self) -> None:
        """Wait until no call is open."""
        await self._none_open.wait()

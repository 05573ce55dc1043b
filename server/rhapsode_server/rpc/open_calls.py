"""The calls in progress, and whether new ones are accepted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from rhapsode_server.errors import Draining


class OpenCalls:
    """Counts the calls in progress, so that the server can refuse new ones and wait for these."""

    def __init__(self) -> None:
        self._count = 0
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._refusal = ""

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

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused."""
        return bool(self._refusal)

    def check_admission(self) -> None:
        """Raises Draining while draining."""
        if self._refusal:
            raise Draining(self._refusal)

    def drain(self, reason: str) -> None:
        """Refuse new calls from now on; callers are told the reason."""
        self._refusal = reason

    def resume(self) -> None:
        """Take new calls again."""
        self._refusal = ""

    async def finished(self) -> None:
        """Wait until no call is open."""
        await self._none_open.wait()

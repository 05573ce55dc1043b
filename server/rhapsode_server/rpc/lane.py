"""A call's place in the queue of an engine: many requests of one call leave room for those of others."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from rhapsode_server.errors import DeadlineUnreachable, Overloaded
from rhapsode_server.workers.stream import TokenStream


@dataclass(slots=True, kw_only=True, eq=False)
class Lane:
    """At most `width` requests of one call are in an engine at the same time; further ones wait here, in order.

    Where the engine's queue is full, a request waits for an earlier one of the same lane to end and tries again. It is
    refused only if the lane has none there: then the queue is full of others.

    `turns` has `width` of them, for a call whose requests are made ready, and answered, only while they have one.
    """

    width: int
    turns: asyncio.Semaphore = field(init=False)
    _num_open: int = 0
    _waiting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.turns = asyncio.Semaphore(self.width)

    async def submit(self, submit: Callable[[], TokenStream]) -> TokenStream:
        """The stream that `submit` opens. Raises what it raises. Whoever gets a stream gives it to `leave`."""
        async with self._waiting:
            while True:
                if self._num_open < self.width and (stream := self._try(submit)):
                    self._num_open += 1
                    return stream
                self._left.clear()
                await self._left.wait()

    def leave(self, stream: TokenStream) -> None:
        """However the request ended."""
        stream.close()
        self._num_open -= 1
        self._left.set()

    def _try(self, submit: Callable[[], TokenStream]) -> TokenStream | None:
        try:
            return submit()
        except DeadlineUnreachable:
            raise
        except Overloaded:
            if self._num_open == 0:
                raise
            return None

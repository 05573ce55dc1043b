"""Many requests of one call: few at a time, and a queue that they fill themselves is waited for."""

import asyncio
from collections.abc import Callable

import pytest
from rhapsode_server.errors import DeadlineUnreachable, Overloaded
from rhapsode_server.rpc.lane import Lane
from rhapsode_server.workers.stream import TokenStream


class Queue:
    """Has so many places."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.streams: list[TokenStream] = []
        self.most = 0

    def submit(self) -> TokenStream:
        if len(self.streams) == self.size:
            raise Overloaded("full", retry_after=2.5)
        stream = TokenStream(on_close=lambda: self.streams.remove(stream))
        self.streams.append(stream)
        self.most = max(self.most, len(self.streams))
        return stream


async def run(lane: Lane, submit: Callable[[], TokenStream]) -> None:
    stream = await lane.submit(submit)
    await asyncio.sleep(0)
    lane.leave(stream)


@pytest.mark.parametrize(("width", "size", "most"), [(3, 100, 3), (100, 4, 4), (1, 1, 1)])
async def test_no_more_at_a_time_than_may(width: int, size: int, most: int) -> None:
    lane, queue = Lane(width=width), Queue(size)
    await asyncio.gather(*(run(lane, queue.submit) for _ in range(50)))
    assert (queue.most, queue.streams) == (most, [])


async def test_a_queue_full_of_others_refuses() -> None:
    lane, queue = Lane(width=8), Queue(1)
    await Lane(width=1).submit(queue.submit)
    with pytest.raises(Overloaded) as caught:
        await lane.submit(queue.submit)
    assert caught.value.retry_after == 2.5


async def test_a_wait_beyond_the_deadline_is_not_waited_for() -> None:
    def refuse() -> TokenStream:
        raise DeadlineUnreachable("too late")

    lane, queue = Lane(width=8), Queue(8)
    await lane.submit(queue.submit)
    with pytest.raises(DeadlineUnreachable):
        await lane.submit(refuse)


async def test_they_go_in_order() -> None:
    lane, queue, order = Lane(width=2), Queue(2), []

    async def one(number: int) -> None:
        stream = await lane.submit(queue.submit)
        order.append(number)
        await asyncio.sleep(0)
        lane.leave(stream)

    await asyncio.gather(*map(one, range(20)))
    assert order == list(range(20))


async def test_who_is_cancelled_while_waiting_leaves_no_trace() -> None:
    lane, queue = Lane(width=1), Queue(1)
    first = await lane.submit(queue.submit)
    waiting = [asyncio.create_task(run(lane, queue.submit)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    lane.leave(first)
    cancelled, *others = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert others == [None, None]
    assert queue.streams == []

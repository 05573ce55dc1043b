"""Tokens from an engine, played by the test at the other end of the socket, to the readers of its streams."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import FinishReason, TokenScore
from rhapsode_server.errors import WorkerLost
from rhapsode_server.workers import pace
from rhapsode_server.workers.delivery import Delivery
from rhapsode_server.workers.launcher import Launched, Launcher
from rhapsode_server.workers.messages import Ready, Step
from rhapsode_server.workers.stream import TokenChunk, TokenStream
from rhapsode_server.workers.wire import Outbox, packed
from rhapsode_server.workers.worker import Worker
from support.workers import WorkerEvents, make_worker

STATS = EngineStats(waiting=0, running=1, blocks_used=1, blocks_total=9, batch_rows=1, batch_tokens=1)
READY = Ready(device="cpu", dtype="float32", parameter_count=1, context_length=1000)


def step(tokens: dict[int, int], **news: Any) -> Step:
    fields = {"scores": (), "ends": (), "started": (), "prompt_scores": (), "stats": STATS, "seconds": 0.01}
    return Step(request_ids=list(tokens), token_ids=list(tokens.values()), **cast(Any, fields | news))


class NoProcess:
    """Ends when it is killed."""

    pid = 1

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def kill(self) -> None:
        self._connection.close()

    def wait(self) -> int:
        return -9


@dataclass(slots=True, eq=False)
class PlayedEngine(Launcher):
    """What the test sends comes from the engine."""

    keep_standby: bool = False
    outbox: Outbox = field(init=False)
    connection: socket.socket = field(init=False)

    def launch(self) -> Launched:
        ours, self.connection = socket.socketpair()
        self.outbox = Outbox(self.connection)
        self.outbox.send(READY)
        return Launched(cast(Any, NoProcess(self.connection)), ours, gives_way=False)


@dataclass(slots=True)
class Played:
    worker: Worker
    engine: PlayedEngine
    events: WorkerEvents

    def submit(self) -> TokenStream:
        return self.worker.submit(prompt_ids=(1, 2), max_new_tokens=1000)

    async def send(self, *steps: Step) -> None:
        """Until the worker has them."""
        before = len(self.events.steps.all)
        for each in steps:
            self.engine.outbox.send(each)
        while len(self.events.steps.all) < before + len(steps):
            self.engine.outbox.push()
            await asyncio.sleep(0)


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    engine, events = PlayedEngine(), WorkerEvents()
    worker = make_worker(EngineOptions(path="", vocabulary_size=9, device="cpu"), events, launcher=engine)
    await worker.start()
    yield Played(worker, engine, events)
    await worker.stop()


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has used up its share for a long time."""
    monkeypatch.setattr(pace, "_SHARE", 1e-9)
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 1000.0)


async def read(stream: TokenStream) -> list[TokenChunk]:
    return [chunk async for chunk in stream]


def ids_of(chunks: Sequence[TokenChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has time to spare, whatever else the machine does."""
    monkeypatch.setattr(pace, "_SHARE", 1e9)


@pytest.mark.usefixtures("idle")
async def test_a_slow_reader_gets_fewer_and_larger_chunks_with_the_same_in_them(played: Played) -> None:
    slow, quick = played.submit(), played.submit()
    reading = asyncio.create_task(read(quick))
    for number in range(100):
        scores = [(request, TokenScore(number + request, -0.5, 1)) for request in (0, 1)]
        await played.send(step({0: number, 1: number + 1}, scores=scores))
    await played.send(step({0: 100, 1: 101}, ends=[(0, FinishReason.LENGTH, ""), (1, FinishReason.LENGTH, "")]))
    few, many = await read(slow), await reading
    assert (len(few), ids_of(few), ids_of(many)) == (1, list(range(101)), list(range(1, 102)))
    assert len(many) > 50
    assert [score.token_id for score in few[0].scores] == few[0].token_ids[:-1]
    assert (few[-1].finish_reason, many[-1].finish_reason) == (FinishReason.LENGTH, FinishReason.LENGTH)
    assert slow.num_generated == quick.num_generated == 101


@pytest.mark.usefixtures("busy")
async def test_first_tokens_scores_and_ends_do_not_wait_for_a_busy_loop(played: Played) -> None:
    first, second = played.submit(), played.submit()
    await played.send(step({0: 5}))
    assert (await asyncio.wait_for(anext(first), 5)).token_ids == [5]
    await played.send(step({0: 6}), step({0: 7, 1: 8}))
    assert (await asyncio.wait_for(anext(second), 5)).token_ids == [8], "although others gather"
    await played.send(step({0: 9, 1: 10}), step({0: 11, 1: 12}))
    waiting = asyncio.create_task(read(first))
    await asyncio.sleep(0)
    assert not waiting.done()
    await played.send(step({0: 13, 1: 14}, ends=[(0, FinishReason.LENGTH, "")]))
    assert [chunk.token_ids for chunk in await asyncio.wait_for(waiting, 5)] == [[6, 7, 9, 11, 13]]
    second.close()
    assert second.num_generated == 4


@pytest.mark.usefixtures("busy")
async def test_what_a_lost_worker_had_sent_comes_first(played: Played) -> None:
    stream = played.submit()
    await played.send(step({0: 1}), step({0: 2}), step({0: 3}))
    played.engine.connection.close()
    await played.worker.ended.wait()
    assert ids_of([await anext(stream)]) == [1, 2, 3]
    with pytest.raises(WorkerLost):
        await anext(stream)


async def test_messages_may_come_in_parts(played: Played) -> None:
    stream = played.submit()
    data = b"".join(packed(step({0: number})) for number in range(3))
    for byte in data:
        played.engine.connection.send(bytes([byte]))
        await asyncio.sleep(0)
    await played.send(step({}, ends=[(0, FinishReason.LENGTH, "")]))
    assert ids_of(await read(stream)) == [0, 1, 2]


async def test_what_waits_for_a_reader_is_no_more_than_its_tokens(played: Played) -> None:
    stream = played.submit()
    await played.send(step({0: 1000}))
    tracemalloc.start()
    try:
        for begin in range(0, 4_000, 500):
            await played.send(*(step({0: 1001 + number}) for number in range(begin, begin + 500)))
        assert tracemalloc.get_traced_memory()[0] < 4_000 * 100 + 500_000 + len(played.events.steps.all) * 300
    finally:
        tracemalloc.stop()
    await played.send(step({}, ends=[(0, FinishReason.LENGTH, "")]))
    assert len(ids_of(await read(stream))) == 4_001


@given(st.lists(st.tuples(st.sets(st.integers(0, 3)), st.booleans())))
async def test_every_stream_gets_its_tokens_in_order(steps: list[tuple[set[int], bool]]) -> None:
    streams = {request: TokenStream(on_close=lambda: None) for request in range(3)}  # 3 was cancelled
    delivery, expected = Delivery(streams), {request: list[int]() for request in range(4)}
    for number, (requests, handed_out) in enumerate(steps):
        for request in requests:
            expected[request].append(number)
        if requests:
            delivery.add(step(dict.fromkeys(sorted(requests), number)))
        if handed_out:
            delivery.hand_out()
    delivery.hand_out()
    for request, stream in streams.items():
        stream.end(FinishReason.LENGTH)
        assert ids_of(await read(stream)) == expected[request]

"""GenerateBatch: many completions in one call, each answered as it completes and failing alone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.errors import FieldViolation
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.models.served import Models, ServedVersion
from rhapsode_server.rpc import errors, messages
from rhapsode_server.rpc.call import Call, count_completion
from rhapsode_server.rpc.generate import Generation
from rhapsode_server.rpc.lane import Lane
from rhapsode_server.rpc.messages import Event
from rhapsode_server.rpc.prepare import Prepared, prepare
from rhapsode_server.rpc.requests.fields import Violations, raise_if_any
from rhapsode_server.rpc.requests.generate import request_id_violations
from rhapsode_server.rpc.requests.sampling import SEEDS, draw_seed
from rhapsode_server.rpc.select import resolve

logger = logging.getLogger("rhapsode.rpc")

Write = Callable[[pb.GenerateBatchResponse], Awaitable[None]]
Watch = Callable[[int, int, Event], Awaitable[None]]

# So many requests are made ready at a time: the event loop sees to other calls in between.
_PREPARED_AT_ONCE = 4
# So many answers wait for a slow reader; further completions then wait with theirs before they make room for others.
_ANSWERS_AHEAD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """A request of the batch. `first` is the place of its first completion among all of the call."""

    index: int
    request: pb.GenerateRequest
    num_completions: int
    first: int


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """One call. In each engine it has as many requests at the same time as can run there: the others wait here, so that
    the queue is left to other calls.

    `watch` hears of the events of each completion, by item and index, as they come. Who watches wants all of them: the
    first that fails ends the others, and `run` raises what it failed with, in an ExceptionGroup.
    """

    models: Models
    metrics: Metrics
    default_max_new_tokens: int
    call: Call
    seed: int
    watch: Watch | None = None
    _open: dict[tuple[int, int], Call | None] = field(default_factory=dict)
    """Completions that have not ended, by item and index; a call is there once it was their turn."""
    _lanes: dict[tuple[str, int], Lane] = field(default_factory=dict)
    _preparing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PREPARED_AT_ONCE))
    _answers: "asyncio.Queue[pb.GenerateBatchResponse]" = field(default_factory=lambda: asyncio.Queue(_ANSWERS_AHEAD))

    async def run(self, request: pb.GenerateBatchRequest, write: Write) -> None:
        """Writes an answer for each completion, as they come. Whatever ends it early ends them all."""
        items = _items(request)
        places = [(item.index, completion) for item in items for completion in range(item.num_completions)]
        # The call itself has been counted; else a batch would be a way around a rate.
        self.call.quota.charge(len(places) - 1)
        self._open = dict.fromkeys(places)
        self.call.is_batch = True
        try:
            async with asyncio.TaskGroup() as tasks:
                for item in items:
                    tasks.create_task(self._run_item(item))
                for _ in places:
                    await write(await self._answers.get())
        finally:
            self._count_cut_off()

    async def _run_item(self, item: _Item) -> None:
        call = self.call.branch()
        with ExitStack() as held:
            try:
                prepared = await self._prepared(item, call, held)
            except Exception as error:
                for completion in range(item.num_completions):
                    await self._fail(item, completion, call, error)
                return
            async with asyncio.TaskGroup() as tasks:
                for completion in range(item.num_completions):
                    tasks.create_task(self._run_completion(item, completion, prepared))

    async def _prepared(self, item: _Item, call: Call, held: ExitStack) -> Prepared:
        async with self._preparing:
            version = resolve(self.models, item.request, call)
            held.enter_context(version.engine.hold())
            prepared = await prepare(item.request, version, self.default_max_new_tokens)
        return replace(prepared, group=version.engine.new_group()) if item.num_completions > 1 else prepared

    async def _run_completion(self, item: _Item, completion: int, prepared: Prepared) -> None:
        """Nothing is made for it before its turn, which it keeps until its answer has a place among those to send."""
        lane = self._lane(prepared.version)
        async with lane.turns:
            self._open[item.index, completion] = call = self.call.branch()
            call.answered_by(prepared.version)
            try:
                seeded = prepared.with_seed(self._seed_of(item, completion))
                response = await self._response(item, completion, Generation(seeded, call, lane, self.metrics))
            except Exception as error:
                await self._fail(item, completion, call, error)
                return
            self._count(item.index, completion, call, errors.OK)
            await self._answers.put(pb.GenerateBatchResponse(item=item.index, completion=completion, response=response))

    async def _response(self, item: _Item, completion: int, generation: Generation) -> pb.GenerateResponse:
        await generation.submit()
        events = []
        with closing(generation):
            async for event in generation.events():
                events.append(event)
                if self.watch is not None:
                    await self.watch(item.index, completion, event)
        return messages.whole_response(events)

    async def _fail(self, item: _Item, completion: int, call: Call, error: Exception) -> None:
        outcome = errors.outcome_of(error)
        if self.watch is not None:
            self._count(item.index, completion, call, outcome)
            raise error
        if outcome is errors.BUG:
            fields = {"request_id": call.request_id, "item": item.index}
            logger.error("unexpected failure", exc_info=error, extra={"fields": fields})
        self._count(item.index, completion, call, outcome)
        status = errors.status_of(error, call.request_id)
        await self._answers.put(pb.GenerateBatchResponse(item=item.index, completion=completion, error=status))

    def _count_cut_off(self) -> None:
        """What the end of the call leaves undone."""
        outcome = errors.EXPIRED if self.call.is_expired else errors.CANCELLED
        for (item, completion), call in list(self._open.items()):
            self._count(item, completion, call or self.call.branch(), outcome)

    def _count(self, item: int, completion: int, call: Call, outcome: errors.Outcome) -> None:
        del self._open[item, completion]
        count_completion(self.metrics, call, outcome.label)
        self.call.trace.note_completion(call, outcome)
        self.call.num_prompt_tokens += call.num_prompt_tokens
        self.call.num_generated_tokens += call.num_generated_tokens

    def _seed_of(self, item: _Item, completion: int) -> int:
        asked = item.request.sampling
        if asked.HasField("seed"):
            return (asked.seed + completion) % SEEDS
        return (self.seed + item.first + completion) % SEEDS

    def _lane(self, version: ServedVersion) -> Lane:
        key = (version.model, version.version)
        if key not in self._lanes:
            self._lanes[key] = Lane(width=self.call.quota.width(version.limits.max_sequences))
        return self._lanes[key]


def check(request: pb.GenerateBatchRequest) -> None:
    """What is wrong with the call itself. Raises InvalidRequest."""
    raise_if_any(_violations(request))


def seed_of(request: pb.GenerateBatchRequest) -> int:
    return request.seed if request.HasField("seed") else draw_seed()


def _violations(request: pb.GenerateBatchRequest) -> Violations:
    yield from request_id_violations(request.request_id)
    if not request.items:
        yield FieldViolation("items", "is empty; give at least one")
    most, total = REQUEST_LIMITS.max_batch_completions, 0
    for index, item in enumerate(request.items):
        total += item.num_completions or 1
        if total > most:
            yield FieldViolation(f"items[{index}].num_completions", f"at most {most} completions in a call")
            return


def _items(request: pb.GenerateBatchRequest) -> list[_Item]:
    items, first = [], 0
    for index, item in enumerate(request.items):
        count = item.num_completions or 1
        items.append(_Item(index=index, request=item.request, num_completions=count, first=first))
        first += count
    return items

"""One run of a batch: so many calls at a time, their answers in the order of the lines or as they come."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from rhapsode_client import (
    AsyncClient,
    Completion,
    GenerateOptions,
    InvalidRequest,
    RhapsodeError,
    Unauthenticated,
    Unavailable,
)
from rhapsode_client.cli.batch.lines import Item, ItemId, Line, item_id, read_item
from rhapsode_client.cli.batch.output import Outputs
from rhapsode_client.cli.settings import EXCLUSIVE

# How far the lines that are read may be ahead of the first that is not answered, in multiples of the concurrency.
_AHEAD = 4


@dataclass(slots=True)
class Tally:
    """What became of the lines so far; `changed` is called when it is another."""

    done: int = 0
    done_before: int = 0
    """By an earlier run."""
    failed: int = 0
    tokens: int = 0
    changed: Callable[[], None] = lambda: None

    def add(self, outcome: Completion | RhapsodeError | None) -> None:
        """One more line; None: it was answered by an earlier run."""
        match outcome:
            case None:
                self.done_before += 1
            case Completion():
                self.done += 1
                self.tokens += outcome.usage.completion_tokens
            case _:
                self.failed += 1
        self.changed()

    @property
    def lines(self) -> int:
        """How many were seen to."""
        return self.done + self.done_before + self.failed


class Batch:
    """`done`: the ids that an earlier run has answered. `options` hold where a line says nothing else."""

    def __init__(
        self,
        *,
        outputs: Outputs,
        options: GenerateOptions,
        done: Set[ItemId],
        concurrency: int,
        in_order: bool,
        tally: Tally,
    ) -> None:
        self._outputs, self._options, self._done = outputs, options, done
        self._calls, self._ahead = asyncio.Semaphore(concurrency), asyncio.Semaphore(_AHEAD * concurrency)
        self._in_order, self._tally = in_order, tally
        self._seen: set[ItemId] = set()
        self._held: dict[int, tuple[Line, Completion | RhapsodeError]] = {}
        self._next = 0

    async def run(self, client: AsyncClient, lines: Iterator[Line]) -> None:
        """Answers every line. Raises what would fail them all, and OSError of files."""
        place = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                async for line in read_beside(lines):
                    if self._is_due(line):
                        await self._ahead.acquire()
                        tasks.create_task(self._answer(client, place, line))
                        place += 1
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def _is_due(self, line: Line) -> bool:
        """Whether it has to be answered: not if it is empty or was answered by an earlier run."""
        if not line.text.strip():
            return False
        is_done = (id := item_id(line)) in self._done and id not in self._seen
        if is_done:
            self._seen.add(id)
            self._tally.add(None)
        return not is_done

    async def _answer(self, client: AsyncClient, place: int, line: Line) -> None:
        outcome: Completion | RhapsodeError
        try:
            item = self._checked(line)
            async with self._calls:
                outcome = await client.generate(item.prompt, **merged(self._options, item.options))
        except RhapsodeError as error:
            if _fails_all(error):
                raise
            outcome = error
        self._held[place] = line, outcome
        self._next = self._next if self._in_order else place
        while self._next in self._held:
            self._write(*self._held.pop(self._next))
            self._next += 1

    def _checked(self, line: Line) -> Item:
        item = read_item(line)
        if item.id in self._seen:
            raise InvalidRequest.of("id", f"an earlier line has {item.id!r} too")
        self._seen.add(item.id)
        return item

    def _write(self, line: Line, outcome: Completion | RhapsodeError) -> None:
        if isinstance(outcome, Completion):
            self._outputs.complete(item_id(line), outcome)
        else:
            self._outputs.fail(item_id(line), line.number, outcome)
        self._tally.add(outcome)
        self._ahead.release()


def merged(defaults: GenerateOptions, own: GenerateOptions) -> GenerateOptions:
    """`own`, and those of `defaults` that it leaves open."""
    closed = {name for group in EXCLUSIVE if group & own.keys() for name in group}
    kept = {name: value for name, value in defaults.items() if name not in closed}
    return cast(GenerateOptions, {**kept, **own})


async def read_beside(lines: Iterator[Line]) -> AsyncIterator[Line]:
    """`lines`, read by a thread, as they may be slow to come. Raises the OSError that ends them."""
    loop, room = asyncio.get_running_loop(), threading.Semaphore(_AHEAD)
    queue: asyncio.Queue[Line | OSError | None] = asyncio.Queue()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            for event in _events(lines):
                room.acquire()
                loop.call_soon_threadsafe(queue.put_nowait, event)

    # No thread of a pool, which the program would wait for when it ends.
    threading.Thread(target=read, daemon=True).start()
    while (event := await queue.get()) is not None:
        if isinstance(event, OSError):
            raise event
        yield event
        room.release()


def _events(lines: Iterator[Line]) -> Iterator[Line | OSError | None]:
    try:
        yield from lines
    except OSError as error:
        yield error
    yield None


def _fails_all(error: RhapsodeError) -> bool:
    """Whether no other line would fare better: nobody answers, or the caller is not known."""
    return isinstance(error, Unauthenticated) or (isinstance(error, Unavailable) and error.retry_after is None)

"""Many calls at once, results in order, for asyncio."""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from rhapsode_client.asynchronous import AsyncOutcome, first_done
from rhapsode_client.errors import RhapsodeError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# One slow call does not hold up the others before so many more results wait for their turn.
_AHEAD = 4


def in_order(
    begin: Callable[[ItemT], AsyncOutcome[ResultT]], items: Iterable[ItemT], concurrency: int, return_errors: bool
) -> AsyncGenerator[Any, None]:
    """The results of the calls that `begin` begins, one for each item, of which `concurrency` run at a time.

    With `return_errors` failures are results too, else the first is raised. Raises ValueError at once.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    return _results(begin, iter(items), concurrency, return_errors)


async def _results(
    begin: Callable[[ItemT], AsyncOutcome[ResultT]], items: Iterable[ItemT], concurrency: int, return_errors: bool
) -> AsyncGenerator[ResultT | RhapsodeError, None]:
    window = deque[AsyncOutcome[ResultT] | RhapsodeError]()
    try:
        while True:
            room = min(concurrency - len(_running(window)), _AHEAD * concurrency - len(window))
            window.extend(_begun(begin, item) for item in islice(items, room))
            if not window:
                return
            if window[0] in (running := _running(window)):
                await first_done(running)
            else:
                result = await _ended(window.popleft(), return_errors)
                yield result
    finally:
        for each in window:
            if isinstance(each, AsyncOutcome):
                each.cancel()


def _running(window: Iterable[AsyncOutcome[ResultT] | RhapsodeError]) -> list[AsyncOutcome[ResultT]]:
    return [each for each in window if isinstance(each, AsyncOutcome) and not each.done()]


def _begun(begin: Callable[[ItemT], AsyncOutcome[ResultT]], item: ItemT) -> AsyncOutcome[ResultT] | RhapsodeError:
    """A prompt that cannot be sent fails in its turn."""
    try:
        return begin(item)
    except RhapsodeError as error:
        return error


async def _ended(outcome: AsyncOutcome[ResultT] | RhapsodeError, return_errors: bool) -> ResultT | RhapsodeError:
    try:
        if isinstance(outcome, RhapsodeError):
            raise outcome
        return await outcome.result()
    except RhapsodeError as error:
        if return_errors:
            return error
        raise

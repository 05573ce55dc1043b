"""Requests that wait to be admitted, in the order in which they will be. Imports no torch."""

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from rhapsode_server.engine.request import EngineRequest, Matcher

# A request gains a point of priority for each second that it waits.
_POINTS_PER_SECOND = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request, and what follows its constraint if it has one."""

    request: EngineRequest
    matcher: Matcher | None = None


@dataclass(slots=True)
class RequestQueue:
    """The highest priority goes first; among equals the first to come.

    All gain priority at the same pace, so their order never changes while they wait: it is that of arrival time less
    the head start that a request's priority gives it. Hence none waits forever: one that arrives later by more than
    the difference of their priorities in seconds never overtakes it.
    """

    _entries: list[tuple[float, int, Waiting]] = field(default_factory=list)
    _keys: dict[int, tuple[float, int]] = field(default_factory=dict)  # by request id
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for *_, waiting in self._entries)

    @property
    def first(self) -> Waiting:
        return self._entries[0][-1]

    def push(self, waiting: Waiting, arrived_at: float) -> None:
        key = (arrived_at - waiting.request.priority / _POINTS_PER_SECOND, next(self._numbers))
        insort(self._entries, (*key, waiting))
        self._keys[waiting.request.request_id] = key

    def pop(self) -> Waiting:
        waiting = self._entries.pop(0)[-1]
        del self._keys[waiting.request.request_id]
        return waiting

    def remove(self, request_id: int) -> bool:
        """Whether it was there."""
        key = self._keys.pop(request_id, None)
        if key is not None:
            # A tuple sorts before all that begin with it.
            del self._entries[bisect_left(self._entries, key)]
        return key is not None

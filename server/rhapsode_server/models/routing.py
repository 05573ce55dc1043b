"""The replicas of a version as one engine: requests go to the one with the least work."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rhapsode_server.errors import Loading
from rhapsode_server.models.replica import Replica
from rhapsode_server.workers.stream import TokenStream
from rhapsode_server.workers.worker import Worker


@dataclass(slots=True, eq=False)
class Router:
    """Takes requests while at least one replica is ready."""

    replicas: Sequence[Replica]
    _groups: "itertools.count[int]" = field(default_factory=itertools.count)
    _num_holds: int = 0
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._released.set()

    @property
    def is_ready(self) -> bool:
        return any(replica.is_ready for replica in self.replicas)

    @property
    def num_waiting(self) -> int:
        """Requests that no engine has begun with."""
        return sum(worker.num_waiting for worker in self._workers)

    @property
    def num_running(self) -> int:
        return sum(worker.num_running for worker in self._workers)

    @property
    def kind_of_start(self) -> str:
        """`standby` if every worker began as one, else `cold`."""
        workers = self._workers
        return "standby" if workers and all(worker.was_standby for worker in workers) else "cold"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Meanwhile no replica is retired, so that who resolved the version can still submit to it."""
        self._num_holds += 1
        self._released.clear()
        try:
            yield
        finally:
            self._num_holds -= 1
            if not self._num_holds:
                self._released.set()

    def submit(self, *, prompt_ids: Sequence[int], **fields: Any) -> TokenStream:
        """Queue a request with the fields of EngineRequest but its id. Raises Overloaded, Unavailable."""
        group = fields.get("group")
        worker = self._least_loaded() if group is None else self._worker_of(group)
        return worker.submit(prompt_ids=prompt_ids, **fields)

    def new_group(self) -> int:
        """For requests of the same prompt: they go to one replica, which computes it once."""
        least_loaded = self._least_loaded()
        index = next(index for index, replica in enumerate(self.replicas) if replica.worker is least_loaded)
        return next(self._groups) * len(self.replicas) + index

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        """Seconds until a request of so many tokens, prompt and completion, would begin, by the measured rate."""
        return self._least_loaded().predicted_wait(num_tokens, priority)

    async def until_idle(self) -> None:
        """Until nobody holds it and no replica has a stream."""
        while self._num_holds or not all(replica.idle.is_set() for replica in self.replicas):
            await self._released.wait()
            for replica in self.replicas:
                await replica.idle.wait()

    @property
    def _workers(self) -> list[Worker]:
        return [worker for replica in self.replicas if (worker := replica.worker)]

    def _worker_of(self, group: int) -> Worker:
        replica = self.replicas[group % len(self.replicas)]
        if replica.ready_worker is None:
            raise Loading("the engine process of this group of requests is being started again")
        return replica.ready_worker

    def _least_loaded(self) -> Worker:
        ready = [replica.ready_worker for replica in self.replicas if replica.ready_worker is not None]
        if not ready:
            raise Loading("the engine process is being started again")
        return min(ready, key=lambda worker: worker.load)

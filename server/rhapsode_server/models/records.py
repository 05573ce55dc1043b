"""What a server writes down: its decisions and refusals for itself, its verdicts for the fleet. Disks may fail."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rhapsode_server.engine.refusal import LOAD_TIMEOUT, OUT_OF_MEMORY, TOO_LARGE, ModelRefused
from rhapsode_server.errors import NotPossible
from rhapsode_server.models.disk import on_disk
from rhapsode_server.models.feedback import Feedback
from rhapsode_server.models.overrides import Refusal, StateNotWritten, StateStore
from rhapsode_server.models.probation import WORKER_CRASHED
from rhapsode_server.models.replica import UNEXPECTED, UNREADABLE
from rhapsode_server.models.served import TrafficOverride

logger = logging.getLogger("rhapsode.models")

FLUSH_TIMEOUT = 5.0

# While loading they say something of this server, or of the moment, and nothing of the version.
_LOCAL_REASONS = frozenset({OUT_OF_MEMORY, TOO_LARGE, LOAD_TIMEOUT, UNEXPECTED, UNREADABLE, WORKER_CRASHED})


@dataclass(slots=True, eq=False)
class Records:
    """Files are written in threads, one after the other, to their end: also for a caller who has gone."""

    store: StateStore
    feedback: Feedback
    _one_writer: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pending: "set[asyncio.Task[Any]]" = field(default_factory=set)
    _ended: dict[str, TrafficOverride] = field(default_factory=dict)  # by model

    def soon(self, note: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Write it down while others go on."""
        task = asyncio.get_running_loop().create_task(note)
        self._pending.add(task)
        task.add_done_callback(self._note_done)
        return task

    def _note_done(self, task: "asyncio.Task[Any]") -> None:
        self._pending.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, StateNotWritten):
            logger.error("unexpected failure", exc_info=error)

    async def flush(self) -> None:
        """Until all is written down, or the disk has had its chance."""
        if self._pending:
            await asyncio.wait([*self._pending], timeout=FLUSH_TIMEOUT)

    def override(self, model: str) -> TrafficOverride | None:
        """The operator's, unless it was ended."""
        override = self.store.traffic(model)
        return None if override is self._ended.get(model) else override

    def loaded(self, model: str) -> Mapping[int, float]:
        return self.store.loaded(model)

    def refusals(self, model: str) -> Mapping[int, Refusal]:
        return self.store.refusals(model)

    async def set_override(self, model: str, override: TrafficOverride | None) -> None:
        """Raises NotPossible."""
        await self._decide(lambda: self.store.set_traffic(model, override))

    async def set_loaded(self, model: str, version: int, expires_at: float | None) -> None:
        """Raises NotPossible."""
        await self._decide(lambda: self.store.set_loaded(model, version, expires_at))

    def end_override(self, model: str, override: TrafficOverride) -> None:
        """It is over for good, whatever the disk says; a newer one stays."""
        self._ended[model] = override
        self.soon(self._forget_override(model, override))

    async def note_serving(self, model: str, versions: Iterable[int]) -> None:
        async with self._one_writer:
            for version in versions:
                await on_disk(self.feedback.write, model, version, "serving", "")

    async def note_refusal(self, model: str, version: int, refusal: ModelRefused) -> None:
        if refusal.reason not in _LOCAL_REASONS:
            async with self._one_writer:
                await on_disk(self.feedback.write, model, version, "quarantined", str(refusal))

    async def note_rollback(self, model: str, version: int, refusal: ModelRefused, fingerprint: str) -> None:
        async with self._one_writer:
            await on_disk(self.feedback.write, model, version, "rolled_back", str(refusal))
            stored = Refusal(fingerprint=fingerprint, reason=refusal.reason, detail=refusal.detail)
            await self._store_refusal(model, version, stored)

    async def forget_refusal(self, model: str, version: int) -> None:
        async with self._one_writer:
            await self._store_refusal(model, version, None)

    async def _decide(self, write: Callable[[], None]) -> None:
        async def run() -> None:
            async with self._one_writer:
                await on_disk(write)

        try:
            # The next writer waits for this one even if the caller gives up.
            await asyncio.shield(self.soon(run()))
        except StateNotWritten as error:
            raise NotPossible(f"{error}; free or repair --state-dir, or start the server without it") from error

    async def _forget_override(self, model: str, override: TrafficOverride) -> None:
        async with self._one_writer:
            if self.store.traffic(model) is not override:
                return
            try:
                await on_disk(self.store.set_traffic, model, None)
            except StateNotWritten as error:
                logger.warning("%s: an operator's decision that is over stays in the state: %s", model, error)

    async def _store_refusal(self, model: str, version: int, refusal: Refusal | None) -> None:
        try:
            await on_disk(self.store.set_refusal, model, version, refusal)
        except StateNotWritten as error:
            logger.warning("%s version %d: after a restart its rollback will not be known: %s", model, version, error)

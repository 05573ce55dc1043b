"""What a server writes down: its decisions and refusals for itself, its verdicts for the fleet. Disks may fail."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rhapsode_server.engine.refusal import LOAD_TIMEOUT, OUT_OF_MEMORY, ModelRefused
from rhapsode_server.errors import NotPossible
from rhapsode_server.models.feedback import Feedback
from rhapsode_server.models.overrides import Refusal, StateNotWritten, StateStore
from rhapsode_server.models.replica import UNEXPECTED, UNREADABLE
from rhapsode_server.models.served import TrafficOverride

logger = logging.getLogger("rhapsode.models")

FLUSH_TIMEOUT = 5.0

# They say something of this server, or of the moment, and nothing of the version.
_LOCAL_REASONS = frozenset({OUT_OF_MEMORY, LOAD_TIMEOUT, UNEXPECTED, UNREADABLE})


@dataclass(slots=True, eq=False)
class Records:
    """Files are written in threads, one after the other."""

    store: StateStore
    feedback: Feedback
    _one_writer: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pending: "set[asyncio.Task[None]]" = field(default_factory=set)

    def soon(self, note: Coroutine[Any, Any, None]) -> None:
        """Write it down while others go on."""
        task = asyncio.get_running_loop().create_task(note)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def flush(self) -> None:
        """Until all is written down, or the disk has had its chance."""
        if self._pending:
            await asyncio.wait([*self._pending], timeout=FLUSH_TIMEOUT)

    def override(self, model: str) -> TrafficOverride | None:
        return self.store.traffic(model)

    def loaded(self, model: str) -> Mapping[int, float]:
        return self.store.loaded(model)

    def refusals(self, model: str) -> Mapping[int, Refusal]:
        return self.store.refusals(model)

    async def set_override(self, model: str, override: TrafficOverride | None) -> None:
        """Raises NotPossible."""
        async with self._one_writer:
            try:
                await asyncio.to_thread(self.store.set_traffic, model, override)
            except StateNotWritten as error:
                raise NotPossible(str(error)) from error

    async def forget_override(self, model: str) -> None:
        try:
            await self.set_override(model, None)
        except NotPossible as error:
            logger.warning("%s: an operator's decision that is over stays: %s", model, error)

    async def set_loaded(self, model: str, version: int, expires_at: float | None) -> None:
        """Raises NotPossible."""
        async with self._one_writer:
            try:
                await asyncio.to_thread(self.store.set_loaded, model, version, expires_at)
            except StateNotWritten as error:
                raise NotPossible(str(error)) from error

    async def note_serving(self, model: str, versions: Iterable[int]) -> None:
        async with self._one_writer:
            for version in versions:
                await asyncio.to_thread(self.feedback.write, model, version, "serving", "")

    async def note_refusal(self, model: str, version: int, refusal: ModelRefused) -> None:
        if refusal.reason not in _LOCAL_REASONS:
            async with self._one_writer:
                await asyncio.to_thread(self.feedback.write, model, version, "quarantined", str(refusal))

    async def note_rollback(self, model: str, version: int, refusal: ModelRefused, fingerprint: str) -> None:
        async with self._one_writer:
            await asyncio.to_thread(self.feedback.write, model, version, "rolled_back", str(refusal))
            stored = Refusal(fingerprint=fingerprint, reason=refusal.reason, detail=refusal.detail)
            await self._store_refusal(model, version, stored)

    async def forget_refusal(self, model: str, version: int) -> None:
        async with self._one_writer:
            await self._store_refusal(model, version, None)

    async def _store_refusal(self, model: str, version: int, refusal: Refusal | None) -> None:
        try:
            await asyncio.to_thread(self.store.set_refusal, model, version, refusal)
        except StateNotWritten as error:
            logger.warning("%s version %d: after a restart its rollback will not be known: %s", model, version, error)

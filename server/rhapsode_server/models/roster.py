"""The versions of a model on this server, and the tasks that load and end them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rhapsode_server.engine.refusal import OUT_OF_MEMORY, ModelRefused
from rhapsode_server.models.replica import UNEXPECTED
from rhapsode_server.models.version import Host, Version

logger = logging.getLogger("rhapsode.models")


@dataclass(slots=True, kw_only=True, eq=False)
class Roster:
    """Every version that this server knows of a model; a number has one Version at a time.

    `look` is to be called when something has changed for good, `look_soon` when requests fail, `on_change` after each
    change of a status, `on_refused` for a version that cannot run, before it ends.
    """

    model: str
    host: Host
    on_change: Callable[[], None]
    look: Callable[[], None]
    look_soon: Callable[[], None]
    on_refused: Callable[[Version, ModelRefused], None]
    versions: dict[int, Version] = field(default_factory=dict)
    kept_until: dict[int, float] = field(default_factory=dict)
    """On the loop's clock: versions without traffic that stay loaded for a rollback."""
    loads: "dict[int, asyncio.Task[None]]" = field(default_factory=dict)
    _retirements: "dict[int, asyncio.Task[None]]" = field(default_factory=dict)
    _tasks: "set[asyncio.Task[Any]]" = field(default_factory=set)

    def live(self) -> list[int]:
        """The versions that can answer now."""
        return [number for number, version in self.versions.items() if version.served is not None]

    def add(self, number: int, path: Path) -> Version:
        self.versions[number] = version = Version(
            model=self.model,
            number=number,
            path=path,
            host=self.host,
            on_change=self.on_change,
            on_worker=self.look,
            on_failure=self.look_soon,
            on_refused=self.refuse,
        )
        return version

    def ensure_loaded(self, number: int, path: Path | None) -> None:
        """Load it from `path` unless it is loaded or on its way; one that drains is taken up again."""
        if number in self.versions:
            if self.versions[number].revive():
                self._retirements[number].cancel()
        elif path is not None:
            task = self._in_background(self._load(self.add(number, path)))
            self.loads[number] = task
            task.add_done_callback(lambda _: self._note_loaded(number, task))

    def refuse(self, version: Version, refusal: ModelRefused) -> None:
        """It cannot run, or may not: it takes no more requests, and ends when its streams have."""
        self.on_refused(version, refusal)
        self.end_refused(version, refusal)
        self.look_soon()

    def end_refused(self, version: Version, refusal: ModelRefused) -> None:
        version.refuse(refusal)
        self._in_background(version.end())

    def retire(self, number: int) -> None:
        """End it once its streams have. In a task of its own: a long stream must not keep a newer version waiting."""
        if number not in self._retirements:
            self.kept_until.pop(number, None)
            self.versions[number].drain()
            self._retirements[number] = self._in_background(self._retire(self.versions[number]))

    def forget(self, number: int) -> None:
        """A version that has been refused."""
        del self.versions[number]
        self.host.metrics.forget(self.model, number)
        self.on_change()

    async def stop(self) -> None:
        """End everything; open streams fail."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(version.stop() for version in self.versions.values()))

    async def _load(self, version: Version) -> None:
        try:
            await self._load_with_room(version)
        except ModelRefused as refusal:
            self.refuse(version, refusal)
        except Exception as error:
            logger.exception("%s: unexpected failure", version.name)
            self.refuse(version, ModelRefused(UNEXPECTED, f"{type(error).__name__}: {error}"))
        self.look()

    async def _load_with_room(self, version: Version) -> None:
        """If memory is short, what is kept for a rollback makes room."""
        try:
            await version.load()
        except ModelRefused as refusal:
            if refusal.reason != OUT_OF_MEMORY or not self.kept_until:
                raise
            logger.info("%s needs the memory of what is kept for a rollback: %s", version.name, refusal)
            await version.stop()
            for number in [*self.kept_until]:
                self.retire(number)
            if self._retirements:
                await asyncio.wait([*self._retirements.values()])
            await version.load()

    def _note_loaded(self, number: int, task: "asyncio.Task[None]") -> None:
        if self.loads.get(number) is task:
            del self.loads[number]

    async def _retire(self, version: Version) -> None:
        try:
            if load := self.loads.get(version.number):
                load.cancel()
                await asyncio.wait([load])
            await version.retire()
            if self.versions.get(version.number) is version:
                del self.versions[version.number]
            self.on_change()
        finally:
            del self._retirements[version.number]
        self.look_soon()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_done)
        return task

    def _note_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s: unexpected failure", self.model, exc_info=error)

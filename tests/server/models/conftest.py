"""A registry over a real model directory, with workers that are started and lost at a test's word."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.errors import WorkerLost
from rhapsode_server.metrics import Metrics
from rhapsode_server.models import registry as registry_module
from rhapsode_server.models import version as version_module
from rhapsode_server.models.registry import ModelRegistry
from rhapsode_server.models.scan import ScannedModel, scan
from rhapsode_server.workers.messages import Ready

READY = Ready(device="cpu", dtype="float32", parameter_count=7, context_length=128)


@dataclass(eq=False)
class FakeWorker:
    """Takes the place of a Worker: same attributes, no process."""

    options: Any
    max_queued_requests: int
    max_queued_tokens: int
    on_step: Callable[..., None]
    on_warming: Callable[[], None]
    on_lost: Callable[[], None]
    outcome: "Ready | Exception | None" = READY
    go: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False

    async def start(self) -> Ready:
        await self.go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.on_warming()
        assert self.outcome
        return self.outcome

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Workshop:
    """Makes the workers of a registry. `outcomes` are those of the workers to come; then all are ready at once."""

    workers: list[FakeWorker] = field(default_factory=list)
    made: "asyncio.Queue[FakeWorker]" = field(default_factory=asyncio.Queue)
    outcomes: list[Exception] = field(default_factory=list)
    hold: bool = False

    def __call__(self, **arguments: Any) -> FakeWorker:
        worker = FakeWorker(**arguments)
        worker.idle.set()
        if self.outcomes:
            worker.outcome = self.outcomes.pop(0)
        if not self.hold:
            worker.go.set()
        self.workers.append(worker)
        self.made.put_nowait(worker)
        return worker

    def will_refuse(self, reason: str, detail: str) -> None:
        self.outcomes.append(ModelRefused(reason, detail))

    def will_be_lost(self, times: int) -> None:
        self.outcomes += [WorkerLost("lost")] * times


class Watched(ModelRegistry):
    """A registry whose changes can be awaited."""

    __slots__ = ("news", "num_looks")

    news: asyncio.Condition
    num_looks: int

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20), self.news:
            await self.news.wait_for(lambda: bool(holds()))

    async def look_again(self, times: int) -> None:
        """Until the directory was looked at `times` times more, the last of them to its end."""
        enough = self.num_looks + times + 1
        await self.until(lambda: self.num_looks >= enough)

    def states(self, model: str = "tiny") -> dict[int, str]:
        found = self.models.get(model)
        return {version.version: version.state.value for version in found.status.versions} if found else {}


Open = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop()
    monkeypatch.setattr(version_module, "Worker", workshop)
    monkeypatch.setattr(version_module, "FIRST_DELAY", 0.001)
    return workshop


@pytest.fixture
def open_registry(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Open:
    @asynccontextmanager
    async def open_registry(**settings: Any) -> AsyncIterator[Watched]:
        config = ServerConfig(models=tmp_path, poll_interval=0.02, **settings)
        news = asyncio.Condition()
        tasks = set()

        async def tell() -> None:
            async with news:
                news.notify_all()

        def on_change(_: object) -> None:
            task = asyncio.get_running_loop().create_task(tell())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        registry = Watched(config=config, metrics=Metrics(), on_change=on_change)
        registry.news, registry.num_looks = news, 0
        loop = asyncio.get_running_loop()

        def counted_scan(root: Path) -> list[ScannedModel]:
            registry.num_looks += 1
            loop.call_soon_threadsafe(on_change, None)
            return scan(root)

        monkeypatch.setattr(registry_module, "scan", counted_scan)
        await registry.start()
        try:
            yield registry
        finally:
            await registry.stop()
            await asyncio.gather(*tasks)

    return open_registry

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
from rhapsode_server.engine.usage import Usage
from rhapsode_server.errors import WorkerLost
from rhapsode_server.metrics import Metrics
from rhapsode_server.models import registry as registry_module
from rhapsode_server.models import replica as replica_module
from rhapsode_server.models import version as version_module
from rhapsode_server.models.registry import ModelRegistry
from rhapsode_server.models.scan import ScannedModel, Unreadable, scan
from rhapsode_server.workers.exits import ExitReason
from rhapsode_server.workers.messages import Ready

READY = Ready(device="cpu", dtype="float32", parameter_count=7, context_length=128)


@dataclass(eq=False)
class FakeWorker:
    """Takes the place of a Worker: same attributes, no process."""

    options: Any
    max_queued_requests: int
    max_queued_tokens: int
    launcher: Any
    load_timeout: float
    step_timeout: float
    on_step: Callable[..., None]
    on_stage: Callable[[str], None]
    on_lost: Callable[[ExitReason], None]
    on_exit: Callable[[ExitReason], None]
    on_usage: Callable[[Usage], None]
    outcome: "Ready | Exception | None" = READY
    go: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False
    was_standby: bool = False
    process_id: int = 7
    num_waiting: int = 0
    num_running: int = 0
    load: int = 0
    submitted: list[dict[str, Any]] = field(default_factory=list)

    def submit(self, **fields: Any) -> str:
        self.submitted.append(fields)
        return "a stream"

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        return float(self.load)

    def lose(self, reason: ExitReason = ExitReason.KILLED) -> None:
        self.on_lost(reason)

    async def start(self) -> Ready:
        await self.go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.on_stage("warming")
        self.on_stage("canary")
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

    async def ask_until(self, holds: Callable[[], object]) -> None:
        """As `until`, where nothing tells that something has changed."""
        for _ in range(2000):
            if holds():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never came")

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
    monkeypatch.setattr(replica_module, "FIRST_DELAY", 0.001)
    return workshop


@pytest.fixture
def open_registry(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Open:
    @asynccontextmanager
    async def open_registry(**settings: Any) -> AsyncIterator[Watched]:
        defaults = {"models": tmp_path, "poll_interval": 0.02, "probation": 0, "standby": False}
        config = ServerConfig(**defaults | settings)
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

        def counted_scan(root: Path, refused: Any) -> list[ScannedModel | Unreadable]:
            registry.num_looks += 1
            loop.call_soon_threadsafe(on_change, None)
            return scan(root, refused)

        monkeypatch.setattr(registry_module, "scan", counted_scan)
        await registry.start()
        try:
            yield registry
        finally:
            await registry.stop()
            await asyncio.gather(*tasks)

    return open_registry

"""One worker of a version, started again when it is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.errors import WorkerLost
from rhapsode_server.models.devices import Place
from rhapsode_server.models.probation import WORKER_CRASHED
from rhapsode_server.models.served import ReplicaStatus
from rhapsode_server.workers.exits import ExitReason
from rhapsode_server.workers.messages import Ready
from rhapsode_server.workers.worker import Worker

logger = logging.getLogger("rhapsode.models")

UNREADABLE = "unreadable"
UNEXPECTED = "unexpected_failure"

MAX_LOAD_ATTEMPTS = 3
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0


@dataclass(slots=True)
class Backoff:
    """Pauses in seconds: none, then `FIRST_DELAY`, doubling up to `longest`."""

    longest: float = LONGEST_DELAY
    _num_pauses: int = 0

    def pause(self) -> float:
        self._num_pauses += 1
        if self._num_pauses == 1:
            return 0.0
        return min(self.longest, FIRST_DELAY * 2.0 ** min(self._num_pauses - 2, 20))


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """Keeps a worker at `place` running from `start` to `stop`, or until it is to `let_go`.

    `on_lost` hears when it was lost, `on_back` when it is ready again, `on_refused` when it cannot be, and says whether
    that is its end; else it is tried again. `before_restart` may raise ModelRefused.
    """

    name: str
    place: Place
    make_worker: Callable[[Callable[[ExitReason], None]], Worker]
    before_restart: Callable[[], Awaitable[None]]
    on_lost: Callable[[ExitReason], None]
    on_back: Callable[[], None]
    on_refused: Callable[[ModelRefused], bool]
    worker: Worker | None = None
    facts: Ready | None = None
    num_restarts: int = 0
    _keeps_up: bool = True
    _nothing_runs: asyncio.Event = field(default_factory=asyncio.Event)
    _restart: "asyncio.Task[None] | None" = None
    _backoff: Backoff = field(default_factory=Backoff)
    _up_since: float = 0.0

    def __post_init__(self) -> None:
        self._nothing_runs.set()

    @property
    def is_ready(self) -> bool:
        return self.ready_worker is not None

    @property
    def ready_worker(self) -> Worker | None:
        return self.worker if self.facts else None

    @property
    def idle(self) -> asyncio.Event:
        """Set while it has no stream."""
        return self.worker.idle if self.worker else self._nothing_runs

    @property
    def status(self) -> ReplicaStatus:
        if (worker := self.ready_worker) is None:
            return ReplicaStatus(process_id=0, device=self.place.device.name, ready=False, restarts=self.num_restarts)
        return ReplicaStatus(
            process_id=worker.process_id,
            device=self.facts.device if self.facts else "",
            ready=True,
            waiting=worker.num_waiting,
            running=worker.num_running,
            restarts=self.num_restarts,
        )

    async def start(self) -> Ready:
        """Try a few times. Raises ModelRefused."""
        return await self._start(MAX_LOAD_ATTEMPTS)

    def let_go(self) -> None:
        """Let the worker run, but start none again."""
        self._keeps_up = False
        if self._restart:
            self._restart.cancel()

    def take_up(self) -> None:
        """The opposite."""
        self._keeps_up = True
        if self.worker is None:
            self._restart = asyncio.get_running_loop().create_task(self._come_back())

    async def stop(self) -> None:
        """End the worker; its open streams fail."""
        if self._restart:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        await self._stop_worker()
        self.place.give_back()

    async def _start(self, attempts: int | None) -> Ready:
        """Try until it runs, `attempts` times at most, with growing pauses."""
        num_losses = 0
        while True:
            try:
                return await self._start_once()
            except WorkerLost:
                num_losses += 1
                if num_losses == attempts:
                    detail = f"the engine process ended {attempts} times before it was ready; its log says why"
                    raise ModelRefused(WORKER_CRASHED, detail) from None
                await asyncio.sleep(self._backoff.pause())

    async def _start_once(self) -> Ready:
        self.worker = worker = self.make_worker(self._lost)
        try:
            facts = await worker.start()
        except BaseException:
            await self._stop_worker()
            raise
        self.facts, self._up_since = facts, asyncio.get_running_loop().time()
        self.place.note_ready()
        return facts

    def _lost(self, reason: ExitReason) -> None:
        worker = self._take_worker(is_hung=reason is ExitReason.HUNG)
        assert worker
        if self._keeps_up:
            self.num_restarts += 1
            logger.error("%s: its engine process ended (%s)", self.name, reason)
        self._restart = asyncio.get_running_loop().create_task(self._come_back(worker))
        self.on_lost(reason)

    async def _come_back(self, lost: Worker | None = None) -> None:
        """Start again, at once the first time, then after pauses that grow while it does not stay up."""
        if lost:
            await lost.stop()
        if asyncio.get_running_loop().time() - self._up_since > LONGEST_DELAY:
            self._backoff = Backoff()
        while self._keeps_up:
            await asyncio.sleep(self._backoff.pause())
            refusal = await self._restarted()
            if refusal is None:
                return self.on_back()
            if self.on_refused(refusal):
                return None
        return None

    async def _restarted(self) -> ModelRefused | None:
        """Why it was not."""
        try:
            await self.before_restart()
            await self._start(None)
        except ModelRefused as refusal:
            return refusal
        except Exception as error:
            logger.exception("%s: unexpected failure", self.name)
            return ModelRefused(UNEXPECTED, f"{type(error).__name__}: {error}")
        return None

    async def _stop_worker(self) -> None:
        if worker := self._take_worker(is_hung=False):
            await worker.stop()

    def _take_worker(self, *, is_hung: bool) -> Worker | None:
        if self.facts:
            self.place.note_end(is_hung=is_hung)
        worker, self.worker, self.facts = self.worker, None, None
        return worker

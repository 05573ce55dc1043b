"""One version on this server, from its discovery to its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rhapsode_contract.model_directory import VerificationError, verify_version

from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import OUT_OF_MEMORY, ModelRefused
from rhapsode_server.errors import WorkerLost
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.files import read_files
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import ServedVersion, VersionState, VersionStatus
from rhapsode_server.workers.messages import Ready
from rhapsode_server.workers.worker import Worker

logger = logging.getLogger("rhapsode.models")

WORKER_CRASHED = "worker_crashed"
UNREADABLE = "unreadable"
UNEXPECTED = "unexpected_failure"
PASSING_REASONS = frozenset({OUT_OF_MEMORY, UNREADABLE, UNEXPECTED, WORKER_CRASHED})
"""Refusals that say nothing against the version's files: it is tried again."""

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
class Version:
    """A version and the worker that runs it. `on_change` is called after each change of state."""

    model: str
    number: int
    path: Path
    config: ServerConfig
    metrics: Metrics
    on_change: Callable[[], None]
    state: VersionState = VersionState.DISCOVERED
    refusal: ModelRefused | None = None
    served: ServedVersion | None = None
    _facts: Ready | None = None
    _worker: Worker | None = None
    _restart: "asyncio.Task[None] | None" = None
    _backoff: Backoff = field(default_factory=Backoff)
    _up_since: float = 0.0

    @property
    def status(self) -> VersionStatus:
        status = VersionStatus(version=self.number, state=self.state, reason=str(self.refusal or ""))
        if self._facts is None:
            return status
        return replace(
            status,
            dtype=self._facts.dtype,
            device=self._facts.device,
            parameter_count=self._facts.parameter_count,
            limits=self.served.limits if self.served else None,
        )

    @property
    def is_refused(self) -> bool:
        return self.refusal is not None

    async def load(self) -> None:
        """Verify, load and prove. Raises ModelRefused, after which it is quarantined."""
        async with self._quarantined_on_failure():
            await self._verify()
            await self._start_worker(MAX_LOAD_ATTEMPTS)
            self.enter(VersionState.READY)

    async def retire(self) -> None:
        """Let the streams end, then end the worker."""
        self.enter(VersionState.DRAINING)
        if self._worker:
            await self._worker.idle.wait()
        await self.stop()
        self.enter(VersionState.UNLOADED)
        self.metrics.forget(self.model, self.number)

    async def quarantine(self, refusal: ModelRefused) -> None:
        self.served = None
        self.refusal = refusal
        self.metrics.count_quarantine(self.model, refusal.reason)
        logger.error("%s version %d is quarantined: %s", self.model, self.number, refusal)
        await self._stop_worker()
        self.enter(VersionState.QUARANTINED)

    async def stop(self) -> None:
        """End the worker; its open streams fail."""
        self.served = None
        if self._restart:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        await self._stop_worker()

    def enter(self, state: VersionState) -> None:
        self.state = state
        self.metrics.set_version_state(self.model, self.number, state.value)
        logger.info("%s version %d: %s", self.model, self.number, state.value)
        self.on_change()

    @asynccontextmanager
    async def _quarantined_on_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except ModelRefused as refusal:
            await self.quarantine(refusal)
            raise
        except Exception as error:
            logger.exception("%s version %d: unexpected failure", self.model, self.number)
            unexpected = ModelRefused(UNEXPECTED, f"{type(error).__name__}: {error}")
            await self.quarantine(unexpected)
            raise unexpected from error

    async def _verify(self) -> None:
        self.enter(VersionState.VERIFYING)
        try:
            await asyncio.to_thread(verify_version, self.path)
        except VerificationError as error:
            raise ModelRefused(error.reason, f"{error.file}: {error.detail}") from error
        except OSError as error:
            raise ModelRefused(UNREADABLE, f"its files cannot be read: {error}") from error

    async def _start_worker(self, attempts: int | None) -> None:
        """Try until it runs, `attempts` times at most, with growing pauses. Raises ModelRefused."""
        num_losses = 0
        while True:
            try:
                return await self._start_worker_once()
            except WorkerLost:
                num_losses += 1
                if num_losses == attempts:
                    detail = f"the engine process ended {attempts} times before it was ready; its log says why"
                    raise ModelRefused(WORKER_CRASHED, detail) from None
                await asyncio.sleep(self._backoff.pause())

    async def _start_worker_once(self) -> None:
        self.enter(VersionState.LOADING)
        files = await asyncio.to_thread(read_files, self.path)
        vocabulary_size = files.tokenizer.vocabulary_size
        self._worker = worker = self._make_worker(vocabulary_size)
        self._facts = facts = await worker.start()
        self._up_since = asyncio.get_running_loop().time()
        self.served = ServedVersion(
            model=self.model,
            version=self.number,
            tokenizer=files.tokenizer,
            chat_template=files.chat_template,
            postprocess=files.postprocess,
            defaults=files.defaults,
            limits=self._limits(facts, vocabulary_size),
            engine=worker,
        )

    def _make_worker(self, vocabulary_size: int) -> Worker:
        config = self.config
        options = EngineOptions(
            path=str(self.path),
            vocabulary_size=vocabulary_size,
            device=config.device,
            dtype=config.dtype,
            threads=config.threads,
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
            kv_cache_memory=config.kv_cache_memory,
        )
        return Worker(
            options=options,
            max_queued_requests=config.max_queued_requests,
            max_queued_tokens=config.max_queued_tokens,
            on_step=lambda stats, seconds: self.metrics.observe_step(self.model, self.number, stats, seconds),
            on_warming=lambda: self.enter(VersionState.WARMING),
            on_lost=self._lost,
        )

    def _limits(self, facts: Ready, vocabulary_size: int) -> Limits:
        return Limits(
            context_length=facts.context_length,
            vocabulary_size=vocabulary_size,
            max_sequences=self.config.max_sequences,
            max_queued_requests=self.config.max_queued_requests,
            max_queued_tokens=self.config.max_queued_tokens,
        )

    def _lost(self) -> None:
        self.served = None
        self.metrics.engine_lost(self.model, self.number)
        if self.state is VersionState.DRAINING:
            return
        self.metrics.count_worker_restart(self.model, self.number)
        logger.error("%s version %d: its engine process ended; it is started again", self.model, self.number)
        self._restart = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        """Start again, at once the first time, then after pauses that grow while it does not stay up."""
        if asyncio.get_running_loop().time() - self._up_since > LONGEST_DELAY:
            self._backoff = Backoff()
        self.enter(VersionState.LOADING)
        await asyncio.sleep(self._backoff.pause())
        with suppress(ModelRefused):
            async with self._quarantined_on_failure():
                await self._verify()
                await self._start_worker(None)
                self.enter(VersionState.SERVING)

    async def _stop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            await worker.stop()

"""One version on this server, from its discovery to its end."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from rhapsode_contract.model_directory import VerificationError, verify_version

from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import LOAD_TIMEOUT, OUT_OF_MEMORY, ModelRefused
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.devices import DevicePool, Place
from rhapsode_server.models.disk import on_disk
from rhapsode_server.models.evaluation import read_evaluation
from rhapsode_server.models.files import VersionFiles, read_files
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.probation import FAILURES, WORKER_CRASHED, Vitals
from rhapsode_server.models.replica import UNEXPECTED, UNREADABLE, Replica
from rhapsode_server.models.routing import Router
from rhapsode_server.models.scan import fingerprint
from rhapsode_server.models.served import (
    EvaluationSummary,
    ServedVersion,
    VersionState,
    VersionStatus,
)
from rhapsode_server.workers.exits import ExitReason
from rhapsode_server.workers.launcher import Launcher
from rhapsode_server.workers.messages import Ready
from rhapsode_server.workers.worker import Worker

logger = logging.getLogger("rhapsode.models")

PASSING_REASONS = frozenset({OUT_OF_MEMORY, LOAD_TIMEOUT, UNREADABLE, UNEXPECTED, WORKER_CRASHED})
"""Refusals while loading that say nothing against the version's files: it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the versions of a server share."""

    config: ServerConfig
    metrics: Metrics
    launcher: Launcher
    devices: DevicePool


@dataclass(slots=True, kw_only=True, eq=False)
class Version:
    """A version and the workers that run it.

    `on_change` is called after each change of state, `on_worker` when a worker was lost or came back, `on_failure` when
    a request failed, `on_refused` when it can no longer run.
    """

    model: str
    number: int
    path: Path
    host: Host
    on_change: Callable[[], None]
    on_worker: Callable[[], None]
    on_failure: Callable[[], None]
    on_refused: Callable[["Version", ModelRefused], None]
    state: VersionState = VersionState.DISCOVERED
    refusal: ModelRefused | None = None
    fingerprint: str = ""
    vitals: Vitals = field(default_factory=Vitals)
    swap_began_at: float | None = None
    start_kind: str = "cold"
    """cold, standby, or warm when it was loaded for an earlier swap."""
    _served: ServedVersion | None = None
    _evaluation: EvaluationSummary | None = None
    _facts: Ready | None = None
    _router: Router = field(default_factory=lambda: Router([]))
    _latest: dict[Place, EngineStats] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model} version {self.number}"

    @property
    def served(self) -> ServedVersion | None:
        """To answer requests; None while it cannot."""
        takes_requests = self.state in (VersionState.READY, VersionState.SERVING)
        return self._served if takes_requests and self._router.is_ready else None

    @property
    def status(self) -> VersionStatus:
        status = VersionStatus(
            version=self.number,
            state=self.state,
            reason=str(self.refusal or ""),
            evaluation=self._evaluation,
            replicas=tuple(replica.status for replica in self._router.replicas),
        )
        if self._facts is None:
            return status
        return replace(
            status,
            dtype=self._facts.dtype,
            device=self._facts.device,
            parameter_count=self._facts.parameter_count,
            limits=self._served.limits if self._served else None,
        )

    async def load(self) -> None:
        """Verify, load and prove. Raises ModelRefused: whoever called decides what becomes of it."""
        try:
            await self._verify()
            files = await on_disk(read_files, self.path)
            self._evaluation = await on_disk(read_evaluation, self.path)
            self._facts = facts = await self._start_replicas(files.tokenizer.vocabulary_size)
        except ModelRefused:
            raise
        except Exception as error:
            logger.exception("%s: unexpected failure", self.name)
            raise ModelRefused(UNEXPECTED, f"{type(error).__name__}: {error}") from error
        self._served, self.start_kind = self._made_served(files, facts), self._router.kind_of_start
        if facts.canary:
            logger.info("%s: %s", self.name, facts.canary)
        self.enter(VersionState.READY)

    def revive(self) -> bool:
        """Stop draining, if its workers are still there."""
        if self.state is not VersionState.DRAINING or not self._router.is_ready:
            return False
        for each in self._router.replicas:
            each.take_up()
        self.enter(VersionState.READY)
        return True

    def drain(self) -> None:
        """From now on it takes no requests; `retire` then lets its streams end."""
        self._let_go(VersionState.DRAINING)

    async def retire(self) -> None:
        """Let the streams end, then end the workers."""
        await self._router.until_idle()
        await self.stop()
        self.enter(VersionState.UNLOADED)
        self.host.metrics.forget(self.model, self.number)

    def refuse(self, refusal: ModelRefused) -> None:
        """From now on it takes no requests; `end` then lets its streams end."""
        self.refusal = refusal
        self.host.metrics.count_quarantine(self.model, refusal.reason)
        logger.error("%s is quarantined: %s", self.name, refusal)
        self._let_go(VersionState.QUARANTINED)

    async def end(self) -> None:
        """Let the streams end, then end the workers; when cancelled, at once."""
        try:
            await self._router.until_idle()
        finally:
            await self.stop()
            self.on_change()

    async def stop(self) -> None:
        """End the workers; open streams fail."""
        self._let_go(self.state)
        replicas, self._router = self._router.replicas, Router([])
        await asyncio.gather(*(replica.stop() for replica in replicas))

    def enter(self, state: VersionState) -> None:
        self.state = state
        self.host.metrics.set_version_state(self.model, self.number, state.value)
        logger.info("%s: %s", self.name, state.value)
        self.on_change()

    def enter_if_other(self, state: VersionState) -> None:
        if state is not self.state:
            self.enter(state)

    def _let_go(self, state: VersionState) -> None:
        for each in self._router.replicas:
            each.let_go()
        self.enter_if_other(state)

    async def _verify(self) -> None:
        self._enter_unless_live(VersionState.VERIFYING)
        try:
            found = await on_disk(fingerprint, self.path)
            self.fingerprint = self.fingerprint or found
            await on_disk(verify_version, self.path)
        except VerificationError as error:
            if not await on_disk(self.path.is_dir):
                raise ModelRefused(UNREADABLE, "its folder is gone; is the model directory mounted?") from error
            raise ModelRefused(error.reason, f"{error.file}: {error.detail}") from error
        except OSError as error:
            raise ModelRefused(UNREADABLE, f"its files cannot be read: {error}") from error
        if found != self.fingerprint:
            # Tokenizer and defaults are those of the files before: it has to be loaded as a whole.
            raise ModelRefused(UNREADABLE, "its files are no longer those that were loaded")
        self._enter_unless_live(VersionState.LOADING)

    async def _start_replicas(self, vocabulary_size: int) -> Ready:
        replicas = [self._make_replica(vocabulary_size) for _ in range(self.host.config.replicas)]
        self._router = Router(replicas)
        self.host.metrics.follow_queue(self.model, self.number, lambda: self._router)
        starts = [asyncio.ensure_future(replica.start()) for replica in replicas]
        try:
            return (await asyncio.gather(*starts))[0]
        finally:
            # If one was refused, the others need not go on.
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    def _make_replica(self, vocabulary_size: int) -> Replica:
        place = self.host.devices.take()
        return Replica(
            name=self.name,
            place=place,
            make_worker=lambda on_lost: self._make_worker(vocabulary_size, place, on_lost),
            before_restart=self._verify,
            on_lost=lambda reason: self._lost(place, reason),
            on_back=self._back,
            on_refused=self._replica_refused,
        )

    def _make_worker(self, vocabulary_size: int, place: Place, on_lost: Callable[[ExitReason], None]) -> Worker:
        config, metrics = self.host.config, self.host.metrics
        options = EngineOptions(
            path=str(self.path),
            vocabulary_size=vocabulary_size,
            device=place.device.name,
            dtype=config.dtype,
            quantization=config.quantization,
            threads=place.device.threads,
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
            prefix_cache=config.prefix_cache,
            kv_cache_memory=config.kv_cache_memory,
            device_memory_fraction=config.device_memory_fraction,
        )
        return Worker(
            options=options,
            max_queued_requests=config.max_queued_requests,
            max_queued_tokens=config.max_queued_tokens,
            launcher=self.host.launcher,
            load_timeout=config.load_timeout,
            step_timeout=config.step_timeout,
            on_step=lambda stats, seconds: self._note_step(place, stats, seconds),
            on_stage=lambda stage: self._enter_unless_live(VersionState(stage)),
            on_usage=lambda usage: metrics.set_usage(self.model, self.number, place, usage),
            on_lost=on_lost,
            on_exit=lambda reason: self._note_exit(place, reason),
        )

    def _made_served(self, files: VersionFiles, facts: Ready) -> ServedVersion:
        config = self.host.config
        return ServedVersion(
            model=self.model,
            version=self.number,
            tokenizer=files.tokenizer,
            chat_template=files.chat_template,
            postprocess=files.postprocess,
            defaults=files.defaults,
            limits=Limits(
                context_length=facts.context_length,
                vocabulary_size=files.tokenizer.vocabulary_size,
                max_sequences=config.max_sequences,
                max_queued_requests=config.max_queued_requests,
                max_queued_tokens=config.max_queued_tokens,
            ),
            engine=self._router,
            note_end=self._note_end,
        )

    def _enter_unless_live(self, state: VersionState) -> None:
        """A version that answers by another replica, or that is on its way out, stays what it is."""
        if not self._router.is_ready and not self._is_leaving:
            self.enter_if_other(state)

    @property
    def _is_leaving(self) -> bool:
        return self.refusal is not None or self.state in (VersionState.DRAINING, VersionState.UNLOADED)

    def _note_step(self, place: Place, stats: EngineStats, seconds: float) -> None:
        self._latest[place] = stats
        self.host.metrics.observe_step(self.model, self.number, _together(stats, self._latest.values()), seconds)
        self.vitals.note_step(stats, seconds)
        if self.swap_began_at is not None and stats.batch_rows:
            took = asyncio.get_running_loop().time() - self.swap_began_at
            self.host.metrics.observe_swap(self.model, self.start_kind, took)
            self.swap_began_at = None

    def _note_end(self, outcome: str) -> None:
        self.vitals.note_end(outcome)
        if outcome in FAILURES:
            self.on_failure()

    def _note_exit(self, place: Place, reason: ExitReason) -> None:
        self._note_engine_gone(place)
        self.host.metrics.set_usage(self.model, self.number, place, None)
        self.host.metrics.count_worker_exit(self.model, self.number, reason)

    def _note_engine_gone(self, place: Place) -> None:
        if self._latest.pop(place, None):
            self.host.metrics.observe_step(self.model, self.number, _together(_NOTHING, self._latest.values()), 0.0)

    def _lost(self, place: Place, reason: ExitReason) -> None:
        self._note_engine_gone(place)
        if self._is_leaving:
            return
        self.host.metrics.count_worker_restart(self.model, self.number)
        self.vitals.note_crash(reason)
        # First, so that another version takes over before this one is seen to have left.
        self.on_worker()
        self._enter_unless_live(VersionState.LOADING)

    def _back(self) -> None:
        if self._is_leaving:
            return
        if self.state is not VersionState.SERVING:
            self.enter_if_other(VersionState.READY)
        self.on_worker()

    def _replica_refused(self, refusal: ModelRefused) -> bool:
        """Whether that is its end: not while others answer."""
        if self._router.is_ready:
            logger.warning("%s: a replica cannot be started again for now: %s", self.name, refusal)
            return False
        self.on_refused(self, refusal)
        return True


_NOTHING = EngineStats(waiting=0, running=0, blocks_used=0, blocks_total=0, batch_rows=0, batch_tokens=0)


def _together(step: EngineStats, latest: Collection[EngineStats]) -> EngineStats:
    """What a step computed, with the books of all replicas."""
    return replace(
        step,
        waiting=sum(each.waiting for each in latest),
        running=sum(each.running for each in latest),
        blocks_used=sum(each.blocks_used for each in latest),
        blocks_retained=sum(each.blocks_retained for each in latest),
        blocks_total=sum(each.blocks_total for each in latest),
    )

"""A model: which version answers, and those that come and go beside it.

Level-triggered: each look compares what should be with what is, and does what is missing, so that it does not matter
which of many changes caused the look, nor whether one was missed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from rhapsode_contract.model_directory import PREVIOUS

from rhapsode_server.engine.refusal import OUT_OF_MEMORY, ModelRefused
from rhapsode_server.models.policy import NOTHING, Decision, decide, fleet_decision, is_in_force
from rhapsode_server.models.probation import Probation, Trials, Vitals
from rhapsode_server.models.quarantine import Quarantine
from rhapsode_server.models.records import Records
from rhapsode_server.models.scan import ScannedModel
from rhapsode_server.models.served import ModelStatus, TrafficOverride, TrafficSource, VersionState
from rhapsode_server.models.traffic import Split
from rhapsode_server.models.version import PASSING_REASONS, Host, Version

logger = logging.getLogger("rhapsode.models")

# Seconds for which news gather, so that a storm of failed requests does not become one of looks.
NEWS_DELAY = 0.02


@dataclass(slots=True, kw_only=True, eq=False)
class ServedModel:
    """Call `look` whenever something may have changed; `found` is what the directory said last.

    `on_change` is called after each change of its status. Times are on the loop's clock, in seconds.
    """

    name: str
    host: Host
    records: Records
    on_change: Callable[[], None]
    found: ScannedModel = field(default_factory=lambda: ScannedModel(name=""))
    versions: dict[int, Version] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    decision: Decision = NOTHING
    quarantine: Quarantine = field(default_factory=Quarantine)
    served_before: list[int] = field(default_factory=list)
    """The latest first."""
    kept_until: dict[int, float] = field(default_factory=dict)
    """Versions without traffic that stay loaded."""
    loads: "dict[int, asyncio.Task[None]]" = field(default_factory=dict)
    _retirements: "dict[int, asyncio.Task[None]]" = field(default_factory=dict)
    _tasks: "set[asyncio.Task[Any]]" = field(default_factory=set)
    _wish: frozenset[int] | None = None
    _missing: frozenset[int] = frozenset()
    _wished_at: float = 0.0
    _trials: Trials = field(default_factory=Trials)
    _is_look_due: bool = False
    _is_stopped: bool = False

    @property
    def status(self) -> ModelStatus:
        return ModelStatus(
            name=self.name,
            aliases=dict(self.found.aliases),
            versions=tuple(self.versions[number].status for number in sorted(self.versions)),
            traffic=dict(self.split.weights),
            source=self.source,
            override=self.override,
        )

    @property
    def fleet(self) -> Decision:
        return fleet_decision(self.found.aliases, self.found.weights)

    @property
    def override(self) -> TrafficOverride | None:
        """The one in force."""
        override = self.records.override(self.name)
        return override if override and is_in_force(override, self.fleet, time.time()) else None

    @property
    def source(self) -> TrafficSource:
        """Of the traffic as it goes now."""
        if not self.split.versions:
            return TrafficSource.NOTHING
        return self.decision.source if self.split.weights == self.decision.weights else TrafficSource.FALLBACK

    def look(self) -> None:
        """Compare what should be with what is, and begin what is missing."""
        self._is_look_due = False
        if self._is_stopped:
            return
        self._end_override()
        self._note_wish()
        self._judge()
        there = {*self.found.paths, *self.live()}
        usable = there - self.quarantine.numbers
        self._say_missing((self._wish or frozenset()) - there)
        self.decision = decide(self.fleet, self.override, usable=usable, fallbacks=self.fallbacks())
        for number in sorted(self._needed() & usable):
            self._ensure_loaded(number)
        self._move()
        self._let_go()

    def look_soon(self) -> None:
        """Once, however many things happen in the meantime."""
        if not self._is_look_due:
            self._is_look_due = True
            asyncio.get_running_loop().call_later(NEWS_DELAY, self.look)

    def fallbacks(self) -> Iterable[int]:
        """Whom to serve when nothing that was decided can be: what serves now, what served before, `previous`."""
        now = sorted(self.split.versions, key=lambda number: -self.split.weights[number])
        previous = [self.found.aliases[PREVIOUS]] if PREVIOUS in self.found.aliases else []
        return [*now, *self.served_before, *previous]

    def try_again(self, number: int) -> None:
        """Let a version out of quarantine."""
        if number in self.quarantine:
            self.quarantine.let_out(number)
            self.records.soon(self.records.forget_refusal(self.name, number))
            if number in self.versions and self.versions[number].refusal:
                del self.versions[number]

    def in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_done)
        return task

    def _note_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s: unexpected failure", self.name, exc_info=error)

    async def stop(self) -> None:
        """End everything; open streams fail."""
        self._is_stopped = True
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(version.stop() for version in self.versions.values()))

    def live(self) -> list[int]:
        """The versions that can answer now."""
        return [number for number, version in self.versions.items() if version.served is not None]

    def _needed(self) -> set[int]:
        return {*self.decision.weights, *self.split.versions, *self.records.loaded(self.name)}

    def _end_override(self) -> None:
        """One that is over must not come back when the fleet goes back to what it decided then."""
        if self.override is None and self.records.override(self.name):
            self.records.soon(self.records.forget_override(self.name))

    def _note_wish(self) -> None:
        """A version that is wished for anew, or whose time has come, may be tried again."""
        override = self.override
        wish = frozenset({*self.fleet.weights, *(override.weights if override else ())})
        now = asyncio.get_running_loop().time()
        if self._wish is None:
            self._restore_refusals()
        elif wish != self._wish:
            age = min(max(0.0, time.time() - self.found.decided_at), self.host.config.poll_interval)
            self._wished_at = now if override else now - age
            for number in wish - self._wish:
                self.try_again(number)
        self._wish = wish
        for number in self.quarantine.numbers:
            if self.quarantine.is_due(number, self.found.fingerprints.get(number), now):
                self.try_again(number)

    def _say_missing(self, missing: frozenset[int]) -> None:
        for number in sorted(missing - self._missing):
            logger.warning(
                "%s version %d is decided for and has no MANIFEST.json yet: waiting for it", self.name, number
            )
        self._missing = missing

    def _restore_refusals(self) -> None:
        """What was rolled back before this server started is not tried again."""
        for number, refused in self.records.refusals(self.name).items():
            if number in self.found.paths:
                refusal = ModelRefused(refused.reason, refused.detail)
                self.quarantine.add(number, refusal, refused.fingerprint)
                self._make(number).refuse(refusal)

    def _judge(self) -> None:
        now = asyncio.get_running_loop().time()
        vitals = {number: self.versions[number].vitals for number in self._trials.numbers}
        for number, refusal in self._trials.failed(vitals, now, self.host.config):
            self._roll_back(self.versions[number], refusal)

    def _roll_back(self, version: Version, refusal: ModelRefused) -> None:
        logger.error("%s is rolled back: %s", version.name, refusal)
        self.host.metrics.count_swap(self.name, "rolled_back")
        self.quarantine.add(version.number, refusal, version.fingerprint)
        self.records.soon(self.records.note_rollback(self.name, version.number, refusal, version.fingerprint))

    def _ensure_loaded(self, number: int) -> None:
        if number not in self.versions:
            version = self._make(number)
            self.loads[number] = task = self.in_background(self._load(version))
            task.add_done_callback(lambda _: self.loads.pop(number, None) and None)
        elif self.versions[number].revive():
            self._retirements[number].cancel()

    def _make(self, number: int) -> Version:
        self.versions[number] = version = Version(
            model=self.name,
            number=number,
            path=self.found.paths[number],
            host=self.host,
            on_change=self.on_change,
            on_worker=self.look,
            on_failure=self.look_soon,
            on_refused=self._refuse,
        )
        return version

    async def _load(self, version: Version) -> None:
        try:
            await self._load_with_room(version)
        except ModelRefused as refusal:
            self._refuse(version, refusal)
        else:
            self.quarantine.forget(version.number)
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
            self.kept_until.clear()
            self.look()
            await asyncio.gather(*self._retirements.values())
            await version.load()

    def _refuse(self, version: Version, refusal: ModelRefused) -> None:
        passing = refusal.reason in PASSING_REASONS
        now = asyncio.get_running_loop().time()
        self.quarantine.add(version.number, refusal, version.fingerprint, **({"retry_from": now} if passing else {}))
        if self.split.versions - {version.number}:
            self.host.metrics.count_swap(self.name, "refused")
        self.records.soon(self.records.note_refusal(self.name, version.number, refusal))
        self._end_refused(version, refusal)
        self.look_soon()

    def _end_refused(self, version: Version, refusal: ModelRefused) -> None:
        version.refuse(refusal)
        self.in_background(version.end())

    def _move(self) -> None:
        """One assignment, once all that were decided for are ready; to some of them if else nobody would serve."""
        live = set(self.live())
        weights = {number: weight for number, weight in self.decision.weights.items() if number in live}
        is_whole = {number for number, weight in self.decision.weights.items() if weight} <= live
        if any(weights.values()) and (is_whole or not live & self.split.versions):
            weights = dict(self.decision.weights) if is_whole else weights
            if weights != self.split.weights:
                self._assign(Split(weights))
        self._mark(self.split.versions & live, VersionState.SERVING)
        self._mark(live - self.split.versions - self.quarantine.numbers, VersionState.READY)

    def _mark(self, numbers: Iterable[int], state: VersionState) -> None:
        for number in sorted(numbers):
            self.versions[number].enter_if_other(state)

    def _assign(self, split: Split) -> None:
        before, self.split = self.split, split
        now, config = asyncio.get_running_loop().time(), self.host.config
        for number in before.versions - split.versions:
            self.kept_until[number] = now + config.probation
            self.versions[number].start_kind = "warm"
            self._trials.end(number)
        for number in split.versions:
            self.kept_until.pop(number, None)
        newcomers = split.versions - before.versions
        if before.versions:
            self._begin_probation(newcomers, before, now + config.probation)
        else:
            self._trials.proven.update(newcomers)
        gone = sorted(before.versions - split.versions, reverse=True)
        known = [number for number in self.served_before if number not in {*gone, *split.versions}]
        self.served_before = [*gone, *known]
        logger.info("%s: requests go to %s", self.name, split)
        self.host.metrics.set_traffic(self.name, split.weights)
        self.records.soon(self.records.note_serving(self.name, newcomers))
        self.on_change()

    def _begin_probation(self, newcomers: Iterable[int], before: Split, until: float) -> None:
        """Of versions that did not hold one here yet, which are compared with the one that had most of the traffic."""
        main = max(before.versions, key=lambda number: before.weights[number])
        for number in newcomers:
            self.versions[number].swap_began_at = self._wished_at
            self.host.metrics.count_swap(self.name, "moved")
            if number not in self._trials.proven:
                self.versions[number].vitals = Vitals()
                self._trials.begin(number, Probation(before=self.versions[main].vitals, until=until))

    def _let_go(self) -> None:
        """End what nobody needs any more, and what was refused once others serve."""
        now, needed = asyncio.get_running_loop().time(), self._needed()
        wished = {*needed, *(self._wish or ()), *self.found.aliases.values()}
        for number, version in list(self.versions.items()):
            if number in self.quarantine:
                if not version.refusal and (number not in self.split.versions or version.served is None):
                    self._end_refused(version, self.quarantine.refusal(number))
                elif version.refusal and number not in wished:
                    self._forget(number)
            elif number not in needed and now >= self.kept_until.get(number, 0.0):
                self._retire(version)

    def _retire(self, version: Version) -> None:
        """In a task of its own: a long stream on an old version must not keep a newer one waiting."""
        number = version.number
        if number in self._retirements:
            return
        if number in self.loads:
            self.loads[number].cancel()

        async def retire() -> None:
            try:
                await version.retire()
                del self.versions[number]
                self.on_change()
            finally:
                del self._retirements[number]
            self.look_soon()

        self.kept_until.pop(number, None)
        version.drain()
        self._retirements[number] = self.in_background(retire())

    def _forget(self, number: int) -> None:
        """A version that was refused is shown for as long as somebody wishes for it."""
        self.quarantine.forget(number)
        del self.versions[number]
        self.host.metrics.forget(self.name, number)
        self.records.soon(self.records.forget_refusal(self.name, number))
        self.on_change()

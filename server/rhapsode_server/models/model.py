"""A model: which version answers, and those that come and go beside it.

Level-triggered: each look compares what should be with what is, and does what is missing, so that it does not matter
which of many changes caused the look, nor whether one was missed.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rhapsode_contract.model_directory import PREVIOUS

from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.models.policy import NOTHING, Decision, decide, fleet_decision, is_in_force
from rhapsode_server.models.probation import Probation, Trials, Vitals
from rhapsode_server.models.quarantine import Quarantine
from rhapsode_server.models.records import Records
from rhapsode_server.models.roster import Roster
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
    split: Split = field(default_factory=Split)
    decision: Decision = NOTHING
    quarantine: Quarantine = field(default_factory=Quarantine)
    roster: Roster = field(init=False)
    _served_before: list[int] = field(default_factory=list)  # the latest first
    _served_for_fleet: list[int] = field(default_factory=list)  # now or before, the latest first; not by an override
    _wish: frozenset[int] | None = None
    _missing: frozenset[int] = frozenset()
    _wished_at: float = 0.0
    _trials: Trials = field(default_factory=Trials)
    _is_look_due: bool = False
    _is_stopped: bool = False

    def __post_init__(self) -> None:
        self.roster = Roster(
            model=self.name,
            host=self.host,
            on_change=self.on_change,
            look=self.look,
            look_soon=self.look_soon,
            on_refused=self._note_refused,
        )

    @property
    def versions(self) -> dict[int, Version]:
        return self.roster.versions

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
        self.decision = self._decide()
        if self.decision is NOTHING and self._is_anything_left():
            self.decision = self._decide()
        for number in sorted(self._needed() & self._usable()):
            self.roster.ensure_loaded(number, self.found.paths.get(number))
        self._move()
        self._let_go()

    def _usable(self) -> set[int]:
        return {*self.found.paths, *self.roster.live()} - self.quarantine.numbers

    def _decide(self) -> Decision:
        return decide(self.fleet, self.override, usable=self._usable(), fallbacks=self.fallbacks())

    def _is_anything_left(self) -> bool:
        """A version that was rolled back is better than none."""
        left = self.quarantine.rolled_back & (self._wish or frozenset()) & self.found.paths.keys()
        for number in left:
            logger.warning("%s version %d was rolled back, but nothing else can serve", self.name, number)
            self.try_again(number)
        return bool(left)

    def look_soon(self) -> None:
        """Once, however many things happen in the meantime."""
        if not self._is_look_due:
            self._is_look_due = True
            asyncio.get_running_loop().call_later(NEWS_DELAY, self.look)

    def fallbacks(self) -> list[int]:
        """Whom to serve when nothing that was decided can be: what served last for the fleet, what serves now, what
        served before, `previous`."""
        now = sorted(self.split.versions, key=lambda number: -self.split.weights[number])
        previous = [self.found.aliases[PREVIOUS]] if PREVIOUS in self.found.aliases else []
        return [*self._served_for_fleet, *now, *self._served_before, *previous]

    def try_again(self, number: int) -> None:
        """Let a version out of quarantine."""
        if number in self.quarantine:
            self.quarantine.let_out(number)
            self.records.soon(self.records.forget_refusal(self.name, number))
            if number in self.versions and self.versions[number].refusal:
                del self.versions[number]

    async def stop(self) -> None:
        """End everything; open streams fail."""
        self._is_stopped = True
        await self.roster.stop()

    def _needed(self) -> set[int]:
        return {*self.decision.weights, *self.split.versions, *self.records.loaded(self.name)}

    def _end_override(self) -> None:
        """One that is over must not come back when the fleet goes back to what it decided then."""
        stored = self.records.override(self.name)
        if stored and self.override is None:
            self.records.end_override(self.name, stored)

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
        self._say_missing(wish - {*self.found.paths, *self.roster.live()})
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
                self.quarantine.add(number, refusal, refused.fingerprint, is_rollback=True)
                self.roster.add(number, self.found.paths[number]).refuse(refusal)

    def _judge(self) -> None:
        now = asyncio.get_running_loop().time()
        vitals = {number: self.versions[number].vitals for number in self._trials.numbers}
        for number, refusal in self._trials.failed(vitals, now, self.host.config):
            if self._others(number):
                self._roll_back(self.versions[number], refusal)
            else:
                logger.error("%s fails, and there is nothing to go back to: %s", self.versions[number].name, refusal)

    def _roll_back(self, version: Version, refusal: ModelRefused) -> None:
        logger.error("%s is rolled back: %s", version.name, refusal)
        self.host.metrics.count_swap(self.name, "rolled_back")
        self.quarantine.add(version.number, refusal, version.fingerprint, is_rollback=True)
        self.records.soon(self.records.note_rollback(self.name, version.number, refusal, version.fingerprint))

    def _note_refused(self, version: Version, refusal: ModelRefused) -> None:
        now, is_passing = asyncio.get_running_loop().time(), refusal.reason in PASSING_REASONS
        retry_from = now if is_passing else math.inf
        self.quarantine.add(version.number, refusal, version.fingerprint, retry_from=retry_from)
        if self.split.versions - {version.number}:
            self.host.metrics.count_swap(self.name, "refused")
        self.records.soon(self.records.note_refusal(self.name, version.number, refusal))

    def _move(self) -> None:
        """One assignment, once all that were decided for are ready; to some of them if else nobody would serve."""
        live = set(self.roster.live())
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
        newcomers, gone = split.versions - before.versions, before.versions - split.versions
        now, probation = asyncio.get_running_loop().time(), self.host.config.probation
        for number in gone & self.versions.keys():
            self.roster.kept_until[number] = now + probation
            self.versions[number].start_kind = "warm"
            self._trials.end(number)
        for number in split.versions:
            self.roster.kept_until.pop(number, None)
            self.quarantine.forget(number)
        if before.versions:
            self._begin_probation(newcomers, before, now + probation)
        else:
            self._go_on_with_probation(newcomers)
        self._remember(gone)
        logger.info("%s: requests go to %s", self.name, split)
        self.host.metrics.set_traffic(self.name, split.weights)
        self.records.soon(self.records.note_serving(self.name, newcomers))
        self.on_change()

    def _remember(self, gone: Iterable[int]) -> None:
        now = sorted(self.split.versions, key=lambda number: -self.split.weights[number])
        self._served_before = _latest_first([*gone], [each for each in self._served_before if each not in now])
        if self.decision.source is not TrafficSource.OVERRIDE:
            self._served_for_fleet = _latest_first(now, self._served_for_fleet)

    def _begin_probation(self, newcomers: Iterable[int], before: Split, until: float) -> None:
        """Of versions that did not hold one here yet, which are compared with the one that had most of the traffic."""
        there = before.versions & self.versions.keys()
        main = max(there, key=lambda number: before.weights[number], default=None)
        vitals = self.versions[main].vitals if main is not None else Vitals()
        for number in newcomers:
            self.versions[number].swap_began_at = self._wished_at
            self.host.metrics.count_swap(self.name, "moved")
            self._try(number, Probation(before=vitals, until=until))

    def _go_on_with_probation(self, newcomers: Iterable[int]) -> None:
        """Of what the fleet decided shortly before this server started."""
        left = self.found.decided_at + self.host.config.probation - time.time()
        for number in newcomers:
            if left <= 0 or not self._others(number):
                self._trials.proven.add(number)
            self._try(number, Probation(before=Vitals(), until=asyncio.get_running_loop().time() + left))

    def _try(self, number: int, probation: Probation) -> None:
        if number not in self._trials.proven:
            self.versions[number].vitals = Vitals()
            self._trials.begin(number, probation)

    def _others(self, number: int) -> set[int]:
        """The versions to which traffic could go back from this one."""
        return self._usable() & {*self.fallbacks()} - {number}

    def _let_go(self) -> None:
        """End what nobody needs any more, and what was refused once others serve."""
        now, needed = asyncio.get_running_loop().time(), self._needed()
        wished = {*needed, *(self._wish or ()), *self.found.aliases.values()}
        for number, version in list(self.versions.items()):
            if number in self.quarantine:
                if not version.refusal and (number not in self.split.versions or version.served is None):
                    self.roster.end_refused(version, self.quarantine.refusal(number))
                elif version.refusal and number not in wished:
                    self._forget(number)
            elif number not in needed and now >= self.roster.kept_until.get(number, 0.0):
                self.roster.retire(number)

    def _forget(self, number: int) -> None:
        """A version that was refused is shown for as long as somebody wishes for it."""
        self.quarantine.forget(number)
        self.roster.forget(number)
        self.records.soon(self.records.forget_refusal(self.name, number))


def _latest_first(latest: list[int], earlier: list[int]) -> list[int]:
    return [*latest, *(number for number in earlier if number not in latest)]

"""Which version of each model answers: follows the champions of the model directory.

A version that serves goes on serving when the directory becomes unreadable or the model vanishes from it: a hiccup of a
file system must not take a service down.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.errors import (
    AliasNotFound,
    Draining,
    InvalidRequest,
    Loading,
    ModelNotFound,
    NothingPublished,
    Quarantined,
    Unavailable,
    VersionNotFound,
)
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.scan import CHAMPION, ScannedModel, scan
from rhapsode_server.models.served import ModelStatus, ServedVersion, VersionState
from rhapsode_server.models.version import PASSING_REASONS, Backoff, Version

logger = logging.getLogger("rhapsode.models")

# The states other than these lead to serving.
_UNAVAILABLE: Mapping[VersionState, type[Unavailable]] = {
    VersionState.QUARANTINED: Quarantined,
    VersionState.DRAINING: Draining,
    VersionState.UNLOADED: Draining,
}

# When a version that was refused for a passing reason is tried again, in seconds: then ever later.
RETRY_DELAY, LONGEST_RETRY = 10.0, 600.0


@dataclass(slots=True, kw_only=True)
class RefusedChampion:
    """Not tried again before its files change, or before `retry_at` on the loop's clock, in seconds."""

    found: ScannedModel
    retry_at: float


@dataclass(slots=True, kw_only=True, eq=False)
class ServedModel:
    """A model: the version that answers, and those that come and go beside it."""

    name: str
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Version] = field(default_factory=dict)
    serving: Version | None = None
    refused: RefusedChampion | None = None
    move: "asyncio.Task[None] | None" = None
    retiring: "set[asyncio.Task[None]]" = field(default_factory=set)
    backoff: Backoff = field(default_factory=lambda: Backoff(longest=LONGEST_RETRY))

    @property
    def status(self) -> ModelStatus:
        versions = tuple(self.versions[number].status for number in sorted(self.versions))
        return ModelStatus(name=self.name, aliases=dict(self.aliases), versions=versions)

    def wants(self, found: ScannedModel, now: float) -> bool:
        """Whether the champion found is one to move to now."""
        if found.champion is None or (self.move is not None and not self.move.done()):
            return False
        if self.refused is not None and self.refused.found == found and now < self.refused.retry_at:
            return False
        before = self.versions.get(found.champion)
        return before is None or before.is_refused

    def refuse(self, found: ScannedModel, reason: str, now: float) -> None:
        retry_at = now + RETRY_DELAY + self.backoff.pause() if reason in PASSING_REASONS else math.inf
        self.refused = RefusedChampion(found=found, retry_at=retry_at)

    def answer(self, version: int | None, alias: str | None) -> ServedVersion:
        """Raises NotFound, Unavailable."""
        if version is None and alias in (None, CHAMPION):
            return self._champion()
        number = version if version is not None else self._aliased(alias or CHAMPION)
        if self.serving is not None and self.serving.number == number:
            return self._champion()
        if number in self.versions:
            raise self._why_not(self.versions[number])
        served = f"served: {self.serving.number}" if self.serving else "none is served yet"
        raise VersionNotFound(f"version {number} of {self.name} is not served here; {served}")

    def _champion(self) -> ServedVersion:
        if self.serving is not None and self.serving.served is not None:
            return self.serving.served
        latest = self.serving or next(reversed(self.versions.values()), None)
        raise self._why_not(latest) if latest else NothingPublished(f"{self.name} has no champion yet")

    def _aliased(self, alias: str) -> int:
        if alias not in self.aliases:
            names = ", ".join(sorted(self.aliases)) or "none"
            raise AliasNotFound(f"{self.name} has no alias {alias!r}; it has {names}")
        return self.aliases[alias]

    def _why_not(self, version: Version) -> Unavailable:
        kind = _UNAVAILABLE.get(version.state, Loading)
        reason = f" ({version.refusal})" if version.refusal else ""
        return kind(f"version {version.number} of {self.name} is {version.state.value}{reason}")


@dataclass(slots=True, kw_only=True, eq=False)
class ModelRegistry:
    """All models of the directory. `on_change` hears the status of all of them after each change."""

    config: ServerConfig
    metrics: Metrics
    on_change: Callable[[list[ModelStatus]], None]
    models: dict[str, ServedModel] = field(default_factory=dict)
    _poll: "asyncio.Task[None] | None" = None

    async def start(self) -> None:
        """Begin to follow the directory; versions load in the background."""
        self._poll = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """End everything; open streams fail."""
        moves = [task for model in self.models.values() for task in (model.move, *model.retiring)]
        tasks = [task for task in (self._poll, *moves) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        versions = [version for model in self.models.values() for version in model.versions.values()]
        await asyncio.gather(*(version.stop() for version in versions))

    def resolve(self, model: str, *, version: int | None = None, alias: str | None = None) -> ServedVersion:
        """Who answers. Raises InvalidRequest (field `model`: empty, and there are several), NotFound, Unavailable."""
        return self._model(model).answer(version, alias)

    def status(self, model: str) -> ModelStatus:
        """One model; empty as in `resolve`. Raises InvalidRequest, NotFound, Unavailable."""
        return self._model(model).status

    def statuses(self) -> list[ModelStatus]:
        """Every model, sorted by name."""
        return [self.models[name].status for name in sorted(self.models)]

    def _model(self, name: str) -> ServedModel:
        name = name or self._default_name()
        if name not in self.models:
            raise ModelNotFound(f"no model {name!r}; there is {self._names()}")
        return self.models[name]

    def _default_name(self) -> str:
        if self.config.default_model:
            return self.config.default_model
        if not self.models:
            raise NothingPublished(f"no model is published in {self.config.models} yet")
        if len(self.models) > 1:
            raise InvalidRequest.of("model", f"name one of the models: {self._names()}")
        return next(iter(self.models))

    def _names(self) -> str:
        return ", ".join(sorted(self.models)) or "none"

    async def _follow(self) -> None:
        while True:
            try:
                for found in await asyncio.to_thread(scan, self.config.models):
                    self._reconcile(found)
            except OSError as error:
                logger.warning("%s cannot be read, looking again in a while: %s", self.config.models, error)
            except Exception:
                logger.exception("the look at %s failed, looking again in a while", self.config.models)
            await asyncio.sleep(self.config.poll_interval)

    def _reconcile(self, found: ScannedModel) -> None:
        model = self.models.setdefault(found.name, ServedModel(name=found.name))
        if model.aliases != found.aliases:
            model.aliases = found.aliases
            self._changed()
        self._forget_superseded(model, found)
        loop = asyncio.get_running_loop()
        if model.wants(found, loop.time()):
            model.move = loop.create_task(self._move(model, found))

    async def _move(self, model: ServedModel, found: ScannedModel) -> None:
        """Load the champion beside the version that serves, move new requests to it, let the old one end."""
        version = self._add(model, found)
        try:
            await version.load()
        except ModelRefused as refusal:
            model.refuse(found, refusal.reason, asyncio.get_running_loop().time())
            return
        model.refused, model.backoff = None, Backoff(longest=LONGEST_RETRY)
        if model.aliases.get(CHAMPION) != version.number:
            self._retire(model, version)  # it was taken back meanwhile
            return
        before, model.serving = model.serving, version
        version.enter(VersionState.SERVING)
        if before is not None and before is not version and not before.is_refused:
            self._retire(model, before)

    def _retire(self, model: ServedModel, version: Version) -> None:
        """In a task of its own: a long stream on an old version must not keep a newer one waiting."""

        async def retire() -> None:
            await version.retire()
            del model.versions[version.number]
            self._changed()

        task = asyncio.get_running_loop().create_task(retire())
        model.retiring.add(task)
        task.add_done_callback(model.retiring.discard)

    def _add(self, model: ServedModel, found: ScannedModel) -> Version:
        version = Version(
            model=model.name,
            number=found.champion or 0,
            path=found.path or self.config.models,
            config=self.config,
            metrics=self.metrics,
            on_change=self._changed,
        )
        model.versions[version.number] = version
        return version

    def _forget_superseded(self, model: ServedModel, found: ScannedModel) -> None:
        """A version that was refused is shown for as long as it is the champion."""
        gone = [number for number, each in model.versions.items() if each.is_refused and number != found.champion]
        for number in gone:
            del model.versions[number]
            self.metrics.forget(model.name, number)
        if gone:
            model.refused = None
            self._changed()

    def _changed(self) -> None:
        self.on_change(self.statuses())

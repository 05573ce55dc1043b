"""All models of the directory, looked at again and again.

A version that serves goes on serving when the directory becomes unreadable or the model vanishes from it: a hiccup of a
file system must not take a service down.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import InvalidRequest, ModelNotFound, NothingPublished
from rhapsode_server.identity import server_name
from rhapsode_server.metrics import Metrics
from rhapsode_server.models import operations
from rhapsode_server.models.answers import answer
from rhapsode_server.models.devices import DevicePool
from rhapsode_server.models.disk import on_disk
from rhapsode_server.models.feedback import Feedback
from rhapsode_server.models.model import ServedModel
from rhapsode_server.models.overrides import StateStore
from rhapsode_server.models.records import Records
from rhapsode_server.models.scan import ScannedModel, Unreadable, scan
from rhapsode_server.models.served import ModelStatus, ServedVersion, Trouble
from rhapsode_server.models.version import Host
from rhapsode_server.workers.launcher import Launcher

logger = logging.getLogger("rhapsode.models")

# Seconds that a look at the directory may take before others go on without it.
SLOW_SCAN = 2.0


@dataclass(slots=True, kw_only=True, eq=False)
class ModelRegistry:
    """What this server serves. `on_change` hears the status of all models after each change."""

    config: ServerConfig
    metrics: Metrics
    on_change: Callable[[list[ModelStatus]], None]
    models: dict[str, ServedModel] = field(default_factory=dict)
    _host: Host = field(init=False)
    _records: Records = field(init=False)
    _poll: "asyncio.Task[None] | None" = None
    _said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        self._host = Host(
            config=config,
            metrics=self.metrics,
            launcher=Launcher(
                keep_standby=config.standby,
                log_format=config.log_format,
                log_prompts=config.log_prompts,
                on_change=self._note_standby,
            ),
            devices=DevicePool(config.all_devices, config.threads, config.replicas),
        )
        feedback = Feedback(config.feedback_dir, server_name(config))
        self._records = Records(StateStore(config.state_dir), feedback)

    async def start(self) -> None:
        """Begin to follow the directory; versions load in the background."""
        self._poll = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """End everything; open streams fail."""
        if self._poll:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        await asyncio.gather(*(model.stop() for model in self.models.values()))
        await self._host.launcher.stop()
        await self._records.flush()

    @property
    def standby_ready(self) -> bool:
        """Whether a pre-imported process waits to become the next worker."""
        return self._host.launcher.standby_ready

    @property
    def trouble(self) -> Trouble:
        """What the statuses do not say."""
        hung_devices = self._host.devices.hung_for(self.config.load_timeout)
        return Trouble(directory=self._said.get("", ""), hung_devices=hung_devices)

    def resolve(
        self, model: str, *, version: int | None = None, alias: str | None = None, key: str = ""
    ) -> ServedVersion:
        """Who answers. Raises InvalidRequest (field `model`: empty, and there are several), NotFound, Unavailable."""
        return answer(self._model(model), version, alias, key)

    def status(self, model: str) -> ModelStatus:
        """One model; empty as in `resolve`. Raises InvalidRequest, NotFound, Unavailable."""
        return self._model(model).status

    def statuses(self) -> list[ModelStatus]:
        """Every model, sorted by name."""
        return [self.models[name].status for name in sorted(self.models)]

    async def set_traffic(
        self, model: str, weights: Mapping[int, int], *, ttl: float, reason: str, holds: bool
    ) -> None:
        """Split requests so. Unless it `holds`, it ends when the fleet decides anew."""
        await operations.set_traffic(self._model(model), weights, ttl=ttl, reason=reason, holds=holds)

    async def clear_traffic(self, model: str) -> None:
        """Let the fleet decide again."""
        await operations.clear_traffic(self._model(model))

    async def rollback(self, model: str, *, ttl: float, reason: str) -> None:
        """Go back to what served before, until the fleet decides anew."""
        await operations.rollback(self._model(model), ttl=ttl, reason=reason)

    async def load_version(self, model: str, version: int, *, ttl: float) -> None:
        """Until it is ready."""
        await operations.load_version(self._model(model), version, ttl=ttl)

    async def unload_version(self, model: str, version: int) -> None:
        """Begin to end a version without traffic."""
        await operations.unload_version(self._model(model), version)

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
        """Look again and again, whatever goes wrong and however long the directory takes to answer."""
        scanning: asyncio.Task[None] | None = None
        while True:
            if scanning is None or scanning.done():
                scanning = asyncio.get_running_loop().create_task(self._take_in())
            await asyncio.wait([scanning], timeout=max(self.config.poll_interval, SLOW_SCAN))
            if not scanning.done():
                self._say_unreadable(f"{self.config.models} does not answer; what serves goes on")
            self._look()
            await asyncio.sleep(self.config.poll_interval)

    def _look(self) -> None:
        for model in self.models.values():
            try:
                model.look()
            except Exception:
                logger.exception("the look at %s failed, looking again in a while", model.name)
        # Not while another process loads: on few cores they would get into each other's way.
        if not any(model.roster.loads for model in self.models.values()):
            try:
                self._host.launcher.refill()
            except OSError as error:
                logger.warning("no standby process can be started, trying again in a while: %s", error)

    async def _take_in(self) -> None:
        """What the directory says now. What cannot be read stays as it was known."""
        refused = {name: model.quarantine.numbers for name, model in self.models.items()}
        try:
            found = await on_disk(_scan, self.config.models, refused)
        except Exception as error:
            self._say_unreadable(f"{self.config.models} cannot be read, looking again in a while: {error}")
            return
        self._say_unreadable("")
        for name in self.models.keys() - {each.name for each in found}:
            self._say(name, f"{name} is no longer in {self.config.models}; what serves goes on")
        for each in found:
            if isinstance(each, Unreadable):
                self._say(each.name, f"{each.name}: passed over until it can be read: {each.why}")
            elif each.name in self.models and self.models[each.name].found.aliases and not each.aliases:
                self._say(each.name, f"{each.name}: passed over, its aliases are gone")
            else:
                self._say(each.name, "")
                self._take_in_model(each)

    def _take_in_model(self, found: ScannedModel) -> None:
        if found.name not in self.models:
            if not found.paths:
                return  # not a model yet, perhaps never
            self.models[found.name] = ServedModel(
                name=found.name, host=self._host, records=self._records, on_change=self._changed
            )
        model = self.models[found.name]
        self.metrics.set_decision(found.name, found.decided_at)
        before, model.found = model.found, found
        if before != replace(found, fingerprints=before.fingerprints):
            self._changed()

    def _say_unreadable(self, problem: str) -> None:
        self._say("", problem)
        self.metrics.set_directory_readable(not problem)

    def _say(self, about: str, problem: str) -> None:
        """In the log, once for as long as it stays the same."""
        if problem and self._said.get(about) != problem:
            logger.warning("%s", problem)
        self._said[about] = problem

    def _note_standby(self) -> None:
        self.metrics.set_standby(self._host.launcher.standby_ready)

    def _changed(self) -> None:
        for name, model in self.models.items():
            self.metrics.set_override(name, model.override is not None)
        self.on_change(self.statuses())


def _scan(root: Path, refused: Mapping[str, Collection[int]]) -> list[ScannedModel | Unreadable]:
    if not root.is_dir():
        raise FileNotFoundError("it is not there")
    return scan(root, refused)

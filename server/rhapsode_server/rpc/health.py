"""grpc.health.v1: whether the process lives, and what is ready to answer.

    startup, those of `alive`     SERVING as soon as the process listens: an empty model directory is no reason for
                                  Kubernetes to restart a pod
    liveness                      SERVING unless nothing serves because a worker hung and the server could not replace
                                  it in time. While the event loop itself hangs nothing answers: a probe's time-out
                                  says it
    "", readiness, each service   SERVING while at least one model serves and the server is in rotation
    model/<name>                  SERVING while that model serves: a worker that has answered a request is up

The servicer that grpcio ships says SERVING for "" before anything is ready, and when one of several watchers of a name
leaves, the others hear nothing more.
"""
# ruff: noqa: N802  (named as the contract names them)

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from rhapsode_server.models.served import ModelStatus, Trouble, VersionState

logger = logging.getLogger("rhapsode.rpc")

MAX_WATCHES = 2048
"""At a time: health is for everybody, also for who has no token, and each watch takes memory."""

Context = grpc.aio.ServicerContext[Any, Any]

_SETTLED = frozenset({VersionState.SERVING, VersionState.UNLOADED, VersionState.DRAINING})


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """`services` are the full names of the gRPC services that depend on the models, `alive` of those that do not."""

    def __init__(self, services: Sequence[str], alive: Sequence[str] = ()) -> None:
        self._up_names = ("startup", *alive)
        self._ready_names = ("", "readiness", *services)
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._draining = ""
        self._said: dict[str, str] = {}
        self._models: Sequence[ModelStatus] = ()
        self._trouble = Trouble()
        self._num_watches = 0
        self.update(())

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service, model or probe")
        return HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        if self._num_watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already; ask with Check")
        self._num_watches += 1
        try:
            await self._tell_changes(request, context)
        finally:
            self._num_watches -= 1

    async def _tell_changes(self, request: HealthCheckRequest, context: Context) -> None:
        sent = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if status != sent:
                await context.write(HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    @property
    def not_ready_because(self) -> str:
        """What readiness waits for; empty while it is SERVING."""
        if self._draining:
            return self._draining
        if self._is_anything_served:
            return ""
        waiting_for = "; ".join(_unsettled(self._models)) or "waiting for the first version to be published"
        return self._trouble.directory or waiting_for

    @property
    def not_alive_because(self) -> str:
        """What hangs; empty while liveness is SERVING. A restart must cost nobody an answer."""
        devices = ", ".join(self._trouble.hung_devices)
        if not devices or self._is_anything_served:
            return ""
        return f"an engine process hung on {devices}, and none could take its place"

    def update(self, models: Sequence[ModelStatus]) -> None:
        """Take over what the models' states are now."""
        self._models = models
        self._refresh()

    def note(self, trouble: Trouble) -> None:
        """Take over what else goes wrong now."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._refresh()

    def drain(self, reason: str) -> None:
        """The server leaves the rotation: nothing but the process itself is SERVING any more."""
        self._draining = reason
        self._refresh()

    def resume(self) -> None:
        """It is back in the rotation."""
        self.drain("")

    @property
    def _is_anything_served(self) -> bool:
        return any(model.is_serving for model in self._models)

    def _refresh(self) -> None:
        ready, alive = self.not_ready_because, self.not_alive_because
        statuses = dict.fromkeys(self._up_names, _status(True))
        statuses["liveness"] = _status(not alive)
        statuses |= dict.fromkeys(self._ready_names, _status(not ready))
        statuses |= {f"model/{each.name}": _status(each.is_serving and not self._draining) for each in self._models}
        self._publish(statuses)
        self._say("health", ready)
        if alive or "liveness" in self._said:
            self._say("liveness", alive)

    def _publish(self, statuses: dict[str, int]) -> None:
        if statuses != self._statuses:
            self._statuses = statuses
            self._changed.set()
            self._changed = asyncio.Event()

    def _say(self, what: str, because: str) -> None:
        if self._said.get(what) != because:
            logger.info("%s: %s", what, f"NOT_SERVING: {because}" if because else "SERVING")
            self._said[what] = because


def _unsettled(models: Iterable[ModelStatus]) -> Iterable[str]:
    for model in models:
        for version in model.versions:
            if version.state not in _SETTLED:
                reason = f" ({version.reason})" if version.reason else ""
                yield f"{model.name} {version.version} is {version.state.value}{reason}"


def _status(is_serving: bool) -> int:
    return int(HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING)

"""grpc.health.v1: whether the process lives, and what is ready to answer.

    startup, liveness, those of   SERVING as soon as the process listens: an empty model directory is no reason for
    `alive`                       Kubernetes to restart a pod
    "", readiness, each service   SERVING while at least one model serves and the server is in rotation
    model/<name>                  SERVING while that model serves

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

from rhapsode_server.models.served import ModelStatus, VersionState

logger = logging.getLogger("rhapsode.rpc")

Context = grpc.aio.ServicerContext[Any, Any]

_ALIVE = ("startup", "liveness")
_SETTLED = frozenset({VersionState.SERVING, VersionState.UNLOADED, VersionState.DRAINING})


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """`services` are the full names of the gRPC services that depend on the models, `alive` of those that do not."""

    def __init__(self, services: Sequence[str], alive: Sequence[str] = ()) -> None:
        self._alive_names = (*_ALIVE, *alive)
        self._ready_names = ("", "readiness", *services)
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._draining = ""
        self._said = ""
        self._models: Sequence[ModelStatus] = ()
        self.update(())

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service, model or probe")
        return HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        sent = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if status != sent:
                await context.write(HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    def update(self, models: Sequence[ModelStatus]) -> None:
        """Take over what the models' states are now."""
        self._models = models
        is_ready = any(model.is_serving for model in models) and not self._draining
        statuses = dict.fromkeys(self._alive_names, _status(True))
        statuses.update(dict.fromkeys(self._ready_names, _status(is_ready)))
        statuses.update({f"model/{model.name}": _status(model.is_serving and not self._draining) for model in models})
        self._publish(statuses)
        self._say("SERVING" if is_ready else f"NOT_SERVING: {self._waiting_for(models)}")

    def drain(self, reason: str) -> None:
        """The server leaves the rotation: nothing but the process itself is SERVING any more."""
        self._draining = reason
        self.update(self._models)

    def resume(self) -> None:
        """It is back in the rotation."""
        self.drain("")

    def _publish(self, statuses: dict[str, int]) -> None:
        if statuses != self._statuses:
            self._statuses = statuses
            self._changed.set()
            self._changed = asyncio.Event()

    def _say(self, text: str) -> None:
        if text != self._said:
            logger.info("health: %s", text)
            self._said = text

    def _waiting_for(self, models: Sequence[ModelStatus]) -> str:
        if self._draining:
            return self._draining
        return "; ".join(_unsettled(models)) or "waiting for the first version to be published"


def _unsettled(models: Iterable[ModelStatus]) -> Iterable[str]:
    for model in models:
        for version in model.versions:
            if version.state not in _SETTLED:
                reason = f" ({version.reason})" if version.reason else ""
                yield f"{model.name} {version.version} is {version.state.value}{reason}"


def _status(is_serving: bool) -> int:
    return int(HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING)

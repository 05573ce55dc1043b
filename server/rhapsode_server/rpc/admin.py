"""AdminService: what operators do to this server."""
# ruff: noqa: N802  (named as the contract names them)

import time
from typing import Any

import grpc.aio
from rhapsode.v1 import admin_pb2 as pb
from rhapsode.v1 import admin_pb2_grpc

from rhapsode_server import __version__
from rhapsode_server.models.served import ModelAdmin
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.call import current_call
from rhapsode_server.rpc.requests import admin as requests
from rhapsode_server.rpc.rotation import Rotation

Context = grpc.aio.ServicerContext[Any, Any]


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """`name` is how the server signs. The log says of each decision for how long, why and by whom it was made."""

    def __init__(self, models: ModelAdmin, rotation: Rotation, name: str) -> None:
        self._models = models
        self._rotation = rotation
        self._name = name
        self._started_at = time.time()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(
            server=self._name,
            release=__version__,
            started_at=messages.timestamp(self._started_at),
            draining=self._rotation.is_draining,
            open_calls=self._rotation.num_open_calls,
            standby_ready=self._models.standby_ready,
            models=map(messages.model_admin, self._models.statuses()),
            not_ready_because=self._rotation.not_ready_because,
        )

    async def SetTraffic(self, request: pb.SetTrafficRequest, context: Context) -> pb.SetTrafficResponse:
        await self._split(request, dict(request.weights), context, holds=True)
        return pb.SetTrafficResponse(status=self._status(request.model))

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:
        await self._split(request, {request.version: 1}, context, holds=False)
        return pb.PromoteResponse(status=self._status(request.model))

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.PinResponse:
        await self._split(request, {request.version: 1}, context, holds=True)
        return pb.PinResponse(status=self._status(request.model))

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        terms = requests.terms(request)
        _log(context, ttl_s=terms.ttl, reason=terms.reason)
        await self._models.rollback(request.model, ttl=terms.ttl, reason=terms.reason)
        return pb.RollbackResponse(status=self._status(request.model))

    async def ClearTraffic(self, request: pb.ClearTrafficRequest, context: Context) -> pb.ClearTrafficResponse:
        _log(context)
        await self._models.clear_traffic(request.model)
        return pb.ClearTrafficResponse(status=self._status(request.model))

    async def LoadVersion(self, request: pb.LoadVersionRequest, context: Context) -> pb.LoadVersionResponse:
        ttl = requests.load_ttl(request)
        _log(context, version=request.version, ttl_s=ttl)
        await self._models.load_version(request.model, request.version, ttl=ttl)
        return pb.LoadVersionResponse(status=self._status(request.model))

    async def UnloadVersion(self, request: pb.UnloadVersionRequest, context: Context) -> pb.UnloadVersionResponse:
        requests.check_unload(request)
        _log(context, version=request.version)
        await self._models.unload_version(request.model, request.version)
        return pb.UnloadVersionResponse(status=self._status(request.model))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        _log(context, resume=request.resume)
        if request.resume:
            self._rotation.resume()
        else:
            self._rotation.drain()
        return pb.DrainResponse(draining=self._rotation.is_draining, open_calls=self._rotation.num_open_calls)

    async def _split(
        self, request: requests.Decides, weights: dict[int, int], context: Context, *, holds: bool
    ) -> None:
        terms = requests.terms(request)
        split = ",".join(f"{version}={weight}" for version, weight in sorted(weights.items()))
        _log(context, weights=split, ttl_s=terms.ttl, reason=terms.reason)
        await self._models.set_traffic(request.model, weights, ttl=terms.ttl, reason=terms.reason, holds=holds)

    def _status(self, model: str) -> pb.ModelAdminStatus:
        status = self._models.status(model)
        current_call.get().model = status.name
        return messages.model_admin(status)


def _log(context: Context, **details: object) -> None:
    """Into the line that the call has in the log however it ends."""
    current_call.get().details.update({**details, "peer": context.peer()})

"""ModelService: what is served, and the state of each version."""
# ruff: noqa: N802  (named as the contract names them)

from typing import Any

import grpc.aio
from rhapsode.v1 import models_pb2 as pb
from rhapsode.v1 import models_pb2_grpc

from rhapsode_server.models.served import Models
from rhapsode_server.rpc import messages

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(messages.model, self._models.statuses()))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=messages.model(self._models.status(request.model)))

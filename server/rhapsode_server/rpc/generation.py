"""GenerationService: what each call does, put together from its parts."""
# ruff: noqa: N802  (named as the contract names them)

from contextlib import closing
from typing import Any

import grpc.aio
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import generation_pb2_grpc

from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import Models
from rhapsode_server.rpc import batch, messages, tokens
from rhapsode_server.rpc.batch import Batch
from rhapsode_server.rpc.call import current_call
from rhapsode_server.rpc.generate import Generation, submitted
from rhapsode_server.rpc.score import scoring
from rhapsode_server.rpc.select import resolve
from rhapsode_server.rpc.threads import in_thread

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Handlers are coroutines, so that a cancelled call ends inside of them and their `finally` runs at once."""

    def __init__(self, models: Models, metrics: Metrics, default_max_new_tokens: int) -> None:
        self._models = models
        self._metrics = metrics
        self._default_max_new_tokens = default_max_new_tokens

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        generation = await self._submitted(request)
        with closing(generation):
            return messages.whole_response([event async for event in generation.events()])

    async def GenerateStream(self, request: pb.GenerateRequest, context: Context) -> None:
        generation = await self._submitted(request)
        with closing(generation):
            await context.send_initial_metadata(current_call.get().metadata)
            async for event in generation.events():
                await context.write(messages.stream_response(event))

    async def GenerateBatch(self, request: pb.GenerateBatchRequest, context: Context) -> None:
        batch.check(request)
        call = current_call.get()
        await context.send_initial_metadata(call.metadata)
        running = Batch(
            models=self._models,
            metrics=self._metrics,
            default_max_new_tokens=self._default_max_new_tokens,
            call=call,
            seed=batch.seed_of(request),
        )
        await running.run(request, context.write)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        call = current_call.get()
        version = resolve(self._models, request, call)
        with version.engine.hold():
            return await (await scoring(request, version, call, self._metrics)).response()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        version = resolve(self._models, request, current_call.get())
        tokens.check_text(request, version)
        return await in_thread(len(request.text), lambda: tokens.tokenized(request, version))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        version = resolve(self._models, request, current_call.get())
        tokens.check_ids(request, version)
        return await in_thread(len(request.token_ids.ids), lambda: tokens.detokenized(request, version))

    async def _submitted(self, message: pb.GenerateRequest) -> Generation:
        return await submitted(
            message,
            models=self._models,
            metrics=self._metrics,
            default_max_new_tokens=self._default_max_new_tokens,
            call=current_call.get(),
        )

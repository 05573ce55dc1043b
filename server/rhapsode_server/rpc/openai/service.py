"""What the endpoint answers: completions, chats, and what models there are."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.errors import InvalidRequest, NotFound
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import Models, ModelStatus, VersionState
from rhapsode_server.rpc import batch
from rhapsode_server.rpc.batch import Batch
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.generate import submitted
from rhapsode_server.rpc.messages import Event
from rhapsode_server.rpc.openai.answers import Answer
from rhapsode_server.rpc.openai.parameters import Asked, in_their_words

Sink = Callable[[int, Event], Awaitable[None]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_ANSWERING = (VersionState.READY, VersionState.SERVING)


class OpenAiService:
    """The calls of the endpoint, once they are read."""

    def __init__(self, models: Models, metrics: Metrics, default_max_new_tokens: int) -> None:
        self._models = models
        self._metrics = metrics
        self._default_max_new_tokens = default_max_new_tokens
        self._started_at = int(time.time())

    async def complete(self, asked: Asked, call: Call) -> dict[str, Any]:
        """The whole answer. Raises what gRPC's calls raise, with the names of OpenAI's parameters."""
        completions: list[list[Event]] = [[] for _ in range(asked.num_prompts * asked.num_completions)]

        async def keep(index: int, event: Event) -> None:
            completions[index].append(event)

        await self._generate(asked, call, keep)
        return Answer(asked).whole(completions)

    async def stream(self, asked: Asked, call: Call, send: Send) -> None:
        """The answer in chunks, in the order in which completions grow. Raises as `complete`, and what `send` does."""
        answer, turns = Answer(asked), asyncio.Lock()

        async def pass_on(index: int, event: Event) -> None:
            async with turns:
                for chunk in answer.chunks(index, event):
                    await send(chunk)

        await self._generate(asked, call, pass_on)
        if asked.includes_usage:
            await send(answer.last_chunk())

    def models(self) -> dict[str, Any]:
        """Each model by its name, and its versions that answer as name@version."""
        listed = [each for status in self._models.statuses() for each in self._listed(status)]
        return {"object": "list", "data": listed}

    def model(self, name: str) -> dict[str, Any]:
        """Raises NotFound."""
        found = next((each for each in self.models()["data"] if each["id"] == name), None)
        if found is None:
            raise NotFound("there is no such model, or it does not answer now; /v1/models lists those that do")
        return dict(found)

    def _listed(self, status: ModelStatus) -> list[dict[str, Any]]:
        ready = [version for version in status.versions if version.state in _ANSWERING]
        served = [version for version in ready if version.state is VersionState.SERVING]
        named = [(status.name, version) for version in served[-1:]]
        named += [(f"{status.name}@{version.version}", version) for version in ready]
        common = {"object": "model", "created": self._started_at, "owned_by": "rhapsode"}
        return [
            {"id": name, **common, "max_model_len": version.limits.context_length if version.limits else None}
            for name, version in named
        ]

    async def _generate(self, asked: Asked, call: Call, sink: Sink) -> None:
        call.traffic_key = call.traffic_key or asked.user
        try:
            if (request := asked.only_request) is not None:
                await self._generate_one(request, call, sink)
            else:
                await self._generate_many(asked, call, sink)
        except InvalidRequest as error:
            raise in_their_words(error, is_chat=asked.is_chat) from None

    async def _generate_one(self, request: pb.GenerateRequest, call: Call, sink: Sink) -> None:
        generation = await submitted(
            request,
            models=self._models,
            metrics=self._metrics,
            default_max_new_tokens=self._default_max_new_tokens,
            call=call,
        )
        with closing(generation):
            async for event in generation.events():
                await sink(0, event)

    async def _generate_many(self, asked: Asked, call: Call, sink: Sink) -> None:
        async def watch(item: int, completion: int, event: Event) -> None:
            if isinstance(event, pb.Started):
                call.model, call.version = event.model, event.version
            await sink(item * asked.num_completions + completion, event)

        running = Batch(
            models=self._models,
            metrics=self._metrics,
            default_max_new_tokens=self._default_max_new_tokens,
            call=call,
            seed=batch.seed_of(asked.batch),
            watch=watch,
        )
        try:
            await running.run(asked.batch, _nowhere)
        except ExceptionGroup as group:
            raise _first(group) from None


async def _nowhere(_: pb.GenerateBatchResponse) -> None:
    """The events have told it all."""


def _first(error: Exception) -> Exception:
    """Of those that ended a batch together."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error

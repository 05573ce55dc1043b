"""GenerationService: the completions, and the tokenizer's two directions."""
# ruff: noqa: N802  (named as the contract names them)

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import grpc.aio
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import generation_pb2_grpc

from rhapsode_server.errors import FieldViolation, InvalidRequest
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import Models, ServedVersion
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.call import Call, current_call
from rhapsode_server.rpc.completion import Completion
from rhapsode_server.rpc.convert import GenerationRequest, generation_request, unknown_token_id
from rhapsode_server.rpc.errors import NotFiniteLogits
from rhapsode_server.rpc.prompt import prompt_token_ids
from rhapsode_server.workers.stream import TokenStream

Context = grpc.aio.ServicerContext[Any, Any]
Event = pb.Started | pb.Delta | pb.Finished
Selecting = pb.GenerateRequest | pb.TokenizeRequest | pb.DetokenizeRequest

# What Tokenize takes at once, in bytes: its answer is a message for each token. What Detokenize takes, in ids.
_MAX_TOKENIZED_BYTES = 2**16
_MAX_TOKEN_IDS = 2**20


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Handlers are coroutines, so that a cancelled call ends inside of them and their `finally` runs at once."""

    def __init__(self, models: Models, metrics: Metrics, default_max_new_tokens: int) -> None:
        self._models = models
        self._metrics = metrics
        self._default_max_new_tokens = default_max_new_tokens

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        async with aclosing(self._events(request, current_call.get())) as events:
            return _whole_response([event async for event in events])

    async def GenerateStream(self, request: pb.GenerateRequest, context: Context) -> None:
        call = current_call.get()
        async with aclosing(self._events(request, call)) as events:
            async for event in events:
                if isinstance(event, pb.Started):
                    await context.send_initial_metadata(call.metadata)
                await context.write(_stream_response(event))

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        version = self._resolve(request)
        size = len(request.text.encode())
        if size > _MAX_TOKENIZED_BYTES:
            raise InvalidRequest([FieldViolation("text", f"has {size} bytes; at most {_MAX_TOKENIZED_BYTES}")])
        return await asyncio.to_thread(_tokenized, version, request.text)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        version = self._resolve(request)
        ids = request.token_ids.ids
        if len(ids) > _MAX_TOKEN_IDS:
            raise InvalidRequest([FieldViolation("token_ids", f"has {len(ids)} ids; at most {_MAX_TOKEN_IDS} at once")])
        if violations := list(unknown_token_id(ids, "token_ids.ids", version.limits.vocabulary_size)):
            raise InvalidRequest(violations)
        skip_special_tokens = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        return await asyncio.to_thread(_detokenized, version, list(ids), skip_special_tokens)

    def _resolve(self, request: Selecting) -> ServedVersion:
        selector = request.WhichOneof("version_selector")
        version = self._models.resolve(
            request.model,
            version=request.version if selector == "version" else None,
            alias=request.alias if selector == "alias" else None,
        )
        current_call.get().answered_by(version)
        return version

    async def _events(self, message: pb.GenerateRequest, call: Call) -> AsyncGenerator[Event]:
        """One Started, any number of Delta, one Finished."""
        version = self._resolve(message)
        request = generation_request(message, version, self._default_max_new_tokens)
        with version.engine.hold():
            prompt_ids = await prompt_token_ids(request.prompt, version)
            completion = Completion(request, version, prompt_ids)
            call.num_prompt_tokens = len(prompt_ids)
            if completion.finish_reason is None:
                call.tokens = self._submit(request, version, prompt_ids, completion.max_new_tokens)
        try:
            yield _started(call, request)
            while completion.finish_reason is None:
                delta = await self._next_delta(call, completion)
                if delta.text or delta.token_ids:
                    yield delta
        finally:
            if call.tokens:
                call.tokens.close()
        yield _finished(call, completion)

    def _submit(
        self, request: GenerationRequest, version: ServedVersion, prompt_ids: list[int], max_new_tokens: int
    ) -> TokenStream:
        tokens = version.engine.submit(
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            sampling=request.sampling,
            stop_token_ids=request.stop_token_ids | request.eos_token_ids,
        )
        self._metrics.count_prompt_tokens(version.model, version.version, len(prompt_ids))
        return tokens

    async def _next_delta(self, call: Call, completion: Completion) -> pb.Delta:
        assert call.tokens is not None
        chunk = await anext(call.tokens)
        try:
            delta = completion.push(chunk)
        except NotFiniteLogits:
            call.finish_reason = chunk.finish_reason.value if chunk.finish_reason else ""
            raise
        self._count(call, completion.num_tokens - call.num_generated_tokens)
        if completion.finish_reason is not None:
            call.finish_reason = pb.FinishReason.Name(completion.finish_reason).removeprefix("FINISH_REASON_").lower()
        return delta

    def _count(self, call: Call, num_tokens: int) -> None:
        """Tokens came together: each but the request's first took its share of the time since those before."""
        assert call.tokens is not None
        assert call.version is not None
        if num_tokens == 0:
            return
        now = time.monotonic()
        since, gaps = (call.last_tokens_at, num_tokens)
        if since is None:
            since, gaps = call.tokens.first_token_at or now, num_tokens - 1
        self._metrics.count_generated_tokens(call.model, call.version, num_tokens)
        self._metrics.observe_inter_token(call.model, call.version, gaps, now - since)
        call.num_generated_tokens += num_tokens
        call.last_tokens_at = now


def _started(call: Call, request: GenerationRequest) -> pb.Started:
    return pb.Started(
        request_id=call.request_id,
        model=call.model,
        version=call.version,
        seed=request.sampling.seed,
        usage=messages.usage(call),
        sampling=messages.sampling(request.sampling),
    )


def _finished(call: Call, completion: Completion) -> pb.Finished:
    return pb.Finished(
        finish_reason=completion.finish_reason,
        matched_stop=completion.matched_stop,
        usage=messages.usage(call),
        timings=messages.timings(call),
    )


def _stream_response(event: Event) -> pb.GenerateStreamResponse:
    match event:
        case pb.Started():
            return pb.GenerateStreamResponse(started=event)
        case pb.Delta():
            return pb.GenerateStreamResponse(delta=event)
    return pb.GenerateStreamResponse(finished=event)


def _whole_response(events: Sequence[Event]) -> pb.GenerateResponse:
    started, finished = events[0], events[-1]
    assert isinstance(started, pb.Started)
    assert isinstance(finished, pb.Finished)
    deltas = [event for event in events if isinstance(event, pb.Delta)]
    return pb.GenerateResponse(
        request_id=started.request_id,
        model=started.model,
        version=started.version,
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        finish_reason=finished.finish_reason,
        matched_stop=finished.matched_stop if finished.HasField("matched_stop") else None,
        seed=started.seed,
        sampling=started.sampling,
        usage=finished.usage,
        timings=finished.timings,
    )


def _tokenized(version: ServedVersion, text: str) -> pb.TokenizeResponse:
    tokens = [messages.token(piece) for piece in version.tokenizer.encode_pieces(text)]
    return pb.TokenizeResponse(model=version.model, version=version.version, tokens=tokens)


def _detokenized(version: ServedVersion, ids: list[int], skip_special_tokens: bool) -> pb.DetokenizeResponse:
    try:
        text = version.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    except ValueError as error:
        raise InvalidRequest([FieldViolation("token_ids.ids", str(error))]) from None
    return pb.DetokenizeResponse(model=version.model, version=version.version, text=text)

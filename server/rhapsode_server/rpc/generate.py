"""A completion from its submission to its last event, and what is counted of it."""

import time
from collections.abc import AsyncGenerator

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.errors import ServingError
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import Models
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.completion import Completion
from rhapsode_server.rpc.lane import Lane
from rhapsode_server.rpc.messages import Event
from rhapsode_server.rpc.prepare import Prepared, prepare
from rhapsode_server.rpc.select import resolve


class Generation:
    """One completion: `submit` it while its version is held, read its `events`, and `close` it however it ends."""

    def __init__(self, prepared: Prepared, call: Call, lane: Lane, metrics: Metrics) -> None:
        self._prepared = prepared
        self._call = call
        self._lane = lane
        self._metrics = metrics
        self._completion = Completion(prepared)
        self._is_open = False
        self._texts: list[str] = []
        call.num_prompt_tokens = len(prepared.prompt_ids)
        call.request, call.tokenising = prepared.request, prepared.tokenising

    async def submit(self) -> None:
        """Raises Overloaded, Unavailable."""
        if self._prepared.needs_engine:
            self._call.tokens = await self._lane.submit(lambda: self._prepared.submit(self._call))
            self._is_open = True
            version = self._prepared.version
            self._metrics.count_prompt_tokens(version.model, version.version, self._call.num_prompt_tokens)

    async def events(self) -> AsyncGenerator[Event]:
        """One Started, any number of Delta, one Finished."""
        completion = self._completion
        yield messages.started(self._call, self._prepared.request.sampling)
        if self._says_something(delta := completion.begin()):
            yield delta
        while completion.finish_reason is None:
            if self._says_something(delta := await self._next_delta()):
                yield delta
        if self._says_something(delta := pb.Delta(text=completion.finish())):
            yield delta
        self.close()
        self._call.finish_reason = _label(completion.finish_reason)
        yield messages.finished(self._call, completion.finish_reason, completion.matched_stop)

    def close(self) -> None:
        """The engine lets go of it. May be called again."""
        if self._is_open:
            self._is_open = False
            assert self._call.tokens is not None
            self._lane.leave(self._call.tokens)
        if self._call.transcript is not None and self._texts:
            self._call.transcript.completions.append("".join(self._texts))
            self._texts.clear()

    def _says_something(self, delta: pb.Delta) -> bool:
        if self._call.transcript is not None and delta.text:
            self._texts.append(delta.text)
        return bool(delta.text or delta.token_ids or delta.logprobs or delta.prompt_logprobs)

    async def _next_delta(self) -> pb.Delta:
        call, completion = self._call, self._completion
        assert call.tokens is not None
        chunk = await anext(call.tokens)
        try:
            delta = completion.push(chunk)
        except ServingError:
            call.finish_reason = chunk.finish_reason.value if chunk.finish_reason else ""
            raise
        self._count(completion.num_tokens - call.num_generated_tokens)
        return delta

    def _count(self, num_tokens: int) -> None:
        """Tokens came together: each but the request's first took its share of the time since those before."""
        call = self._call
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


async def submitted(
    message: pb.GenerateRequest, *, models: Models, metrics: Metrics, default_max_new_tokens: int, call: Call
) -> Generation:
    """The only completion of a call. Raises all that resolving, preparing and submitting raise."""
    version = resolve(models, message, call)
    with version.engine.hold():
        prepared = await prepare(message, version, default_max_new_tokens)
        generation = Generation(prepared, call, Lane(width=1), metrics)
        await generation.submit()
    return generation


def _label(reason: pb.FinishReason) -> str:
    return pb.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()

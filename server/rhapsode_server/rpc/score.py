"""Score: how likely the model finds a text, in windows where it is longer than the context."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.engine.request import FinishReason, SamplingParameters, TokenScore
from rhapsode_server.errors import DeadlinePassed, FieldViolation, NotFiniteLogits, Unavailable
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.lane import Lane
from rhapsode_server.rpc.requests import fields, output, prompt
from rhapsode_server.rpc.requests.fields import Violations, raise_if_any
from rhapsode_server.rpc.requests.generate import request_id_violations
from rhapsode_server.rpc.scores import token_logprobs, unscored
from rhapsode_server.workers.stream import TokenStream

# Enough to keep an engine busy, few enough to leave room for others.
_WINDOWS_AT_ONCE = 4

# So many times Limits.max_score_tokens are computed for a text at most, windows that overlap counted in full.
_MOST_OVERLAP = 16


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that the model sees together; those from index `first` on are scored, the others are context."""

    ids: Sequence[int]
    first: int


def windows(ids: Sequence[int], context: int, overlap: int) -> Iterator[Window]:
    """Score each token of `ids` but the first exactly once, with `context` tokens before it at most.

    Those of a further window have at least `overlap` tokens of it before them. They are the windows of the trainer's
    evaluation with a stride of `context - overlap`.
    """
    assert 0 <= overlap < context
    start, scored = 0, 1
    while scored < len(ids):
        if scored - start <= context:
            end = min(start + context + 1, len(ids))
            yield Window(ids[start:end], scored - start)
            scored = end
        start += context - overlap


def num_windows(num_tokens: int, context: int, overlap: int) -> int:
    """How many `windows` there are, but one at least."""
    return 1 + max(0, -(-(num_tokens - 1 - context) // (context - overlap)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """One call: what is scored, by which version."""

    version: ServedVersion
    call: Call
    metrics: Metrics
    ids: tuple[int, ...]
    overlap: int
    top_logprobs: int

    async def response(self) -> pb.ScoreResponse:
        """Raises what the engine raises for any of the windows."""
        tokenizer = self.version.tokenizer
        answer = pb.ScoreResponse(tokens=[unscored(self.ids[0], tokenizer)])
        logprobs: list[float] = []
        async with aclosing(self._scores()) as windows_of_scores:
            async for scores in windows_of_scores:
                answer.tokens.extend(token_logprobs(scores, tokenizer))
                logprobs += [score.logprob for score in scores]
        answer.request_id, answer.model, answer.version = self.call.request_id, self.call.model, self.version.version
        answer.sum_logprob = math.fsum(logprobs)
        if logprobs:
            answer.perplexity = _exp(-answer.sum_logprob / len(logprobs))
        answer.timings.CopyFrom(messages.timings(self.call))
        answer.timings.ClearField("first_token")
        return answer

    async def _scores(self) -> AsyncGenerator[list[TokenScore]]:
        """Window by window, in order; a few are computed ahead."""
        lane = Lane(width=_WINDOWS_AT_ONCE)
        ahead: deque[asyncio.Task[list[TokenScore]]] = deque()
        try:
            for window in windows(self.ids, self.version.limits.context_length, self.overlap):
                ahead.append(asyncio.create_task(self._score(window, lane)))
                if len(ahead) == _WINDOWS_AT_ONCE:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            await _cancel(ahead)

    async def _score(self, window: Window, lane: Lane) -> list[TokenScore]:
        stream = await lane.submit(lambda: self._submit(window))
        self.call.tokens = self.call.tokens or stream
        scores: list[TokenScore] = []
        try:
            async for chunk in stream:
                scores += chunk.prompt_scores + chunk.scores
                _check(chunk.finish_reason)
        finally:
            lane.leave(stream)
        assert len(scores) == len(window.ids) - window.first
        return scores

    def _submit(self, window: Window) -> TokenStream:
        """The last token is drawn, from itself alone: so a window may have as many tokens before it as the context."""
        *before, last = window.ids
        stream = self.version.engine.submit(
            prompt_ids=tuple(before),
            max_new_tokens=1,
            sampling=SamplingParameters(allowed_token_ids=(last,)),
            top_logprobs=self.top_logprobs,
            prompt_top_logprobs=self.top_logprobs if window.first < len(before) else None,
            first_scored=window.first,
            deadline=self.call.deadline,
        )
        self.metrics.count_prompt_tokens(self.version.model, self.version.version, len(window.ids))
        return stream


async def scoring(request: pb.ScoreRequest, version: ServedVersion, call: Call, metrics: Metrics) -> Scoring:
    """Raises InvalidRequest."""
    raise_if_any(_violations(request, version))
    is_text = request.WhichOneof("input") == "text"
    began_at = time.monotonic()
    ids = await prompt.encode(request.text, version.tokenizer) if is_text else request.token_ids.ids
    call.tokenising = began_at, time.monotonic()
    ids = _as_document(ids, version) if request.as_document else ids
    field, most = "text" if is_text else "token_ids", _most_tokens(request.top_logprobs, version)
    raise_if_any(_length_violations(field, len(ids), most))
    overlap = request.overlap if request.HasField("overlap") else version.limits.context_length // 2
    raise_if_any(_overlap_violations(len(ids), overlap, version.limits))
    call.num_prompt_tokens = len(ids)
    return Scoring(
        version=version,
        call=call,
        metrics=metrics,
        ids=tuple(ids),
        overlap=overlap,
        top_logprobs=request.top_logprobs,
    )


def _violations(request: pb.ScoreRequest, version: ServedVersion) -> Violations:
    limits = version.limits
    yield from request_id_violations(request.request_id)
    match request.WhichOneof("input"):
        case None:
            yield FieldViolation("text", "is missing; give a text or token_ids")
        case "text":
            yield from prompt.text_violations(request.text, "text", limits)
        case "token_ids":
            ids = request.token_ids.ids
            yield from fields.token_ids(ids, "token_ids.ids", limits.max_score_tokens, limits.vocabulary_size)
    if request.as_document and not version.defaults.eos_token_ids:
        yield FieldViolation("as_document", f"{version.model} has no end-of-sequence token")
    if request.overlap >= limits.context_length:
        yield FieldViolation("overlap", f"must be below the context length, {limits.context_length}")
    yield from output.top_violations(request.top_logprobs, "top_logprobs", limits)


def _length_violations(field: str, num_tokens: int, most: int) -> Violations:
    if num_tokens == 0:
        yield FieldViolation(field, "is empty; give at least one token")
    yield from fields.too_many(field, num_tokens, most, " tokens")


def _overlap_violations(num_tokens: int, overlap: int, limits: Limits) -> Violations:
    context = limits.context_length
    cost = num_windows(num_tokens, context, overlap) * min(context, num_tokens)
    if cost > (most := _MOST_OVERLAP * limits.max_score_tokens):
        description = f"is too much for a text of {num_tokens} tokens: its windows have {cost}, at most {most} may be"
        yield FieldViolation("overlap", description)


def _most_tokens(top_logprobs: int, version: ServedVersion) -> int:
    """An answer has so many entries at most, candidates counted."""
    return version.limits.max_score_tokens // (1 + top_logprobs)


def _as_document(ids: Sequence[int], version: ServedVersion) -> list[int]:
    end = version.defaults.eos_token_ids[0]
    return [end, *ids, end]


def _check(reason: FinishReason | None) -> None:
    """Raises for the ends that bring no score."""
    match reason:
        case FinishReason.NOT_FINITE | FinishReason.NOTHING_LEFT:
            raise NotFiniteLogits("the model produced logits that are not finite")
        case FinishReason.EXPIRED:
            raise DeadlinePassed("the deadline passed before the text was scored")
        case FinishReason.CANCELLED:
            raise Unavailable("the engine gave the request up; send it again")


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


async def _cancel(tasks: Sequence["asyncio.Task[list[TokenScore]]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task

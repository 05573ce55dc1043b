"""A caller that keeps books of what it sent, how it ended and what it received."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub

OUTCOMES = {
    grpc.StatusCode.OK: "ok",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.NOT_FOUND: "invalid",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
}
CODES = {code.value[0]: outcome for code, outcome in OUTCOMES.items()}


def asked(max_new_tokens: int = 8, prompt: str = "the sea", **fields: Any) -> pb.GenerateRequest:
    """A completion of exactly so many tokens, whose ids are told."""
    return pb.GenerateRequest(
        prompt=prompt,
        sampling=pb.SamplingParameters(temperature=1.0, seed=1),
        stopping=pb.StoppingCriteria(max_new_tokens=max_new_tokens, ignore_eos=True),
        output=pb.OutputOptions(token_ids=True),
        **fields,
    )


def item(num_completions: int = 1, **fields: Any) -> pb.GenerateBatchItem:
    return pb.GenerateBatchItem(request=asked(**fields), num_completions=num_completions)


@dataclass(slots=True, eq=False)
class Caller:
    """`calls` are by method and outcome, `completions` by outcome, as the caller saw them.

    `prompt_tokens` are those of calls that said how many they had; `received` are tokens of completions, whole or not.
    """

    stub: GenerationServiceStub
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    completions: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    received: int = 0

    async def ask(self, method: str, answer: Awaitable[Any]) -> tuple[str, Any]:
        """How a unary call ended, and the answer if there is one."""
        try:
            outcome, answered = "ok", await answer
        except grpc.aio.AioRpcError as error:
            outcome, answered = OUTCOMES[error.code()], None
        self.calls[method, outcome] += 1
        return outcome, answered

    async def generate(self, request: pb.GenerateRequest, **options: Any) -> str:
        outcome, answer = await self.ask("Generate", self.stub.Generate(request, **options))
        self.completions[outcome] += 1
        if answer:
            self._receive_whole(answer)
        return outcome

    async def stream(
        self,
        request: pb.GenerateRequest,
        *,
        cancel_after: int | None = None,
        on_delta: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> str:
        """`cancel_after` so many deltas; `on_delta` hears of the first."""
        call, num_deltas = self.stub.GenerateStream(request, **options), 0
        async for event in _messages(call):
            if event.HasField("delta"):
                num_deltas += 1
                self.received += len(event.delta.token_ids)
                if num_deltas == 1:
                    on_delta()
            self.prompt_tokens += event.finished.usage.prompt_tokens
            if num_deltas == cancel_after:
                call.cancel()
                break
        outcome = OUTCOMES[await call.code()]
        self.calls["GenerateStream", outcome] += 1
        self.completions[outcome] += 1
        return outcome

    async def batch(self, items: Sequence[pb.GenerateBatchItem], *, cancel_after: int | None = None) -> str:
        """`cancel_after` so many answers: the others are then cancelled."""
        call, num_answers = self.stub.GenerateBatch(pb.GenerateBatchRequest(items=items)), 0
        num_completions = sum(each.num_completions for each in items)
        async for answer in _messages(call):
            num_answers += 1
            self.completions["ok" if answer.HasField("response") else CODES[answer.error.code]] += 1
            if answer.HasField("response"):
                self._receive_whole(answer.response)
            if num_answers == cancel_after:
                call.cancel()
                break
        outcome = OUTCOMES[await call.code()]
        self.calls["GenerateBatch", outcome] += 1
        if outcome == "cancelled":
            self.completions[outcome] += num_completions - num_answers
        return outcome

    def _receive_whole(self, answer: pb.GenerateResponse) -> None:
        self.received += len(answer.token_ids)
        self.prompt_tokens += answer.usage.prompt_tokens


async def _messages(call: "grpc.aio.UnaryStreamCall[Any, Any]") -> AsyncIterator[Any]:
    """Until the call ends, however."""
    with suppress(grpc.aio.AioRpcError):
        while (message := await call.read()) is not grpc.aio.EOF:
            yield message

"""One call of each kind, and whether its answer is right."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import grpc
import grpc.aio
import torch
from google.rpc.error_details_pb2 import RetryInfo
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from support.publishing import tiny_tokenizer
from support.streams import PROMPTS, Oracle

from .ledger import Entry, Ledger

LENGTH = 16
LONG = 400
PATIENCE = 120.0

_OUTCOMES = {
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
}
PROMPT_IDS = [tiny_tokenizer().encode(prompt).ids for prompt in PROMPTS]


@dataclass(frozen=True)
class Said(Oracle):
    """What a version says to each prompt, and how likely it finds the prompts themselves."""

    length: int = LENGTH

    @cached_property
    def scores(self) -> list[list[float]]:
        """Of each prompt: the log-probability of every token but the first."""
        return [self._scores(prompt_ids) for prompt_ids in PROMPT_IDS]

    def _scores(self, prompt_ids: Sequence[int]) -> list[float]:
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([prompt_ids])).logits[0].log_softmax(-1)
        return [float(logprobs[at, token_id]) for at, token_id in enumerate(prompt_ids[1:])]


class Lost(Exception):  # noqa: N818  (named for what happened)
    """The worker that was to answer was lost: the caller is to try again after so many seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after


@dataclass(kw_only=True, repr=False)
class Caller:
    """Makes calls on a channel, enters them in the ledger, and compares every answer with what its version says."""

    channel: grpc.aio.Channel
    ledger: Ledger
    oracles: Mapping[str, Mapping[int, Said]]
    wrong: list[str]
    dice: random.Random
    _stub: GenerationServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self._stub = GenerationServiceStub(self.channel)

    @property
    def kinds(self) -> Mapping[str, Callable[[str, int], Awaitable[None]]]:
        """Each takes a model and the number of a prompt."""
        return {
            "generate": self.generate,
            "stream": self.stream,
            "slow stream": self.slow_stream,
            "batch": self.batch,
            "score": self.score,
            "tokenize": self.tokenize,
            "cancelled": self.cancelled,
            "impatient": self.impatient,
        }

    async def until_answered(self, kind: str, model: str, prompt: int) -> None:
        """Try again as the server asks for it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self.kinds[kind](model, prompt)
                except Lost as lost:
                    await asyncio.sleep(lost.retry_after)

    async def generate(self, model: str, prompt: int) -> None:
        with self._entered("Generate", model) as (entry, options):
            request = self._request(model, prompt=PROMPTS[prompt])
            entry.num_tokens = self._check(await self._stub.Generate(request, **options), prompt)

    async def stream(self, model: str, prompt: int, pause: float = 0.0) -> None:
        with self._entered("GenerateStream", model) as (entry, options):
            request = self._request(model, prompt_token_ids=pb.TokenIds(ids=PROMPT_IDS[prompt]))
            self._check(await self._read(self._stub.GenerateStream(request, **options), entry, pause), prompt)

    async def slow_stream(self, model: str, prompt: int) -> None:
        await self.stream(model, prompt, pause=0.1)

    async def batch(self, model: str, prompt: int) -> None:
        prompts = [(prompt + offset) % len(PROMPTS) for offset in range(3)]
        with self._entered("GenerateBatch", model) as (entry, options):
            items = [
                pb.GenerateBatchItem(request=self._request(model, prompt=PROMPTS[each]), num_completions=2)
                for each in prompts
            ]
            answers = [each async for each in self._stub.GenerateBatch(pb.GenerateBatchRequest(items=items), **options)]
            places = sorted((each.item, each.completion) for each in answers)
            self._note(places == [(item, completion) for item in range(3) for completion in range(2)], places)
            responses = [(each.response, prompts[each.item]) for each in answers if each.HasField("response")]
            entry.num_tokens = sum(self._check(response, prompt) for response, prompt in responses)
            lost = [each.error for each in answers if each.HasField("error")]
            self._note(all(each.code == grpc.StatusCode.UNAVAILABLE.value[0] for each in lost), lost)
            entry.outcome = "partly" if lost else ""
        if lost:
            raise Lost(_retry_delay(lost[0]))

    async def score(self, model: str, prompt: int) -> None:
        with self._entered("Score", model) as (_, options):
            request = pb.ScoreRequest(model=model, token_ids=pb.TokenIds(ids=PROMPT_IDS[prompt]))
            answer = await self._stub.Score(request, **options)
            expected = self.oracles[model][answer.version].scores[prompt]
            actual = [each.logprob for each in answer.tokens if each.HasField("logprob")]
            self._note([each.token_id for each in answer.tokens] == PROMPT_IDS[prompt], answer)
            self._note(len(actual) == len(expected), answer)
            self._note(all(abs(a - e) < 1e-3 for a, e in zip(actual, expected, strict=False)), answer)

    async def tokenize(self, model: str, prompt: int) -> None:
        with self._entered("Tokenize", model) as (_, options):
            answer = await self._stub.Tokenize(pb.TokenizeRequest(model=model, text=PROMPTS[prompt]), **options)
        ids = [each.id for each in answer.tokens]
        with self._entered("Detokenize", model) as (_, options):
            request = pb.DetokenizeRequest(model=model, token_ids=pb.TokenIds(ids=ids))
            text = (await self._stub.Detokenize(request, **options)).text
        self._note((ids, text) == (PROMPT_IDS[prompt], PROMPTS[prompt]), f"{ids} {text!r}")

    async def cancelled(self, model: str, prompt: int) -> None:
        """A caller that leaves somewhere in the middle."""
        with self._entered("GenerateStream", model, "cancelled") as (entry, options):
            request = self._request(model, prompt=PROMPTS[prompt], max_new_tokens=LONG)
            call = self._stub.GenerateStream(request, **options)
            num_messages = self.dice.randint(1, 20)
            async for event in call:
                entry.num_tokens += len(event.delta.token_ids)
                if not (num_messages := num_messages - 1):
                    call.cancel()

    async def impatient(self, model: str, prompt: int) -> None:
        """A caller whose time is over before it has all, or before it is heard."""
        with self._entered("Generate", model, "deadline", "overloaded") as (entry, options):
            entry.was_heard = False
            request = self._request(model, prompt=PROMPTS[prompt], max_new_tokens=LONG)
            answer = await self._stub.Generate(request, **options | {"timeout": self.dice.uniform(0.02, 0.3)})
            entry.was_heard, entry.num_tokens = True, answer.usage.completion_tokens

    async def _read(
        self, call: AsyncIterator[pb.GenerateStreamResponse], entry: Entry, pause: float
    ) -> pb.GenerateResponse:
        """The answer that a stream gives, which begins once, and says once that it is over."""
        answer, events = pb.GenerateResponse(), list[str]()
        async for event in call:
            events.append(event.WhichOneof("event") or "")
            answer.version = answer.version or event.started.version
            answer.model = answer.model or event.started.model
            answer.text += event.delta.text
            answer.token_ids.extend(event.delta.token_ids)
            answer.usage.MergeFrom(event.finished.usage)
            entry.num_tokens = len(answer.token_ids)
            await asyncio.sleep(pause)
        self._note(events == ["started", *["delta"] * (len(events) - 2), "finished"], events)
        return answer

    def _check(self, answer: pb.GenerateResponse, prompt: int) -> int:
        """Every token once, of one version from the first to the last. Returns how many."""
        expected = self.oracles[answer.model][answer.version].answers[prompt]
        self._note((tuple(answer.token_ids), answer.text) == expected, answer)
        return answer.usage.completion_tokens

    def _request(self, model: str, *, max_new_tokens: int = LENGTH, **fields: object) -> pb.GenerateRequest:
        request = pb.GenerateRequest(model=model, **fields)  # type: ignore[arg-type]
        request.sampling.temperature = 0.0
        request.stopping.max_new_tokens = max_new_tokens
        request.stopping.ignore_eos = max_new_tokens == LONG
        request.output.token_ids = True
        return request

    @contextmanager
    def _entered(self, method: str, model: str, *ends: str) -> Iterator[tuple[Entry, Any]]:
        """In the ledger, with the outcome that the block has, which may be one of `ends` too. Raises Lost."""
        request_id, entry = self.ledger.open(method, model)
        try:
            yield entry, {"metadata": (("x-request-id", request_id),), "timeout": PATIENCE}
            entry.outcome = entry.outcome or "ok"
        except asyncio.CancelledError:
            entry.outcome = "cancelled"
        except grpc.aio.AioRpcError as error:
            entry.outcome = _OUTCOMES.get(error.code(), f"{error.code()}: {error.details()}")
            if entry.outcome == "unavailable":
                raise Lost(_retry_delay(_status_of(error))) from None
        self._note(entry.outcome in ("ok", "partly", *ends), f"{request_id} {entry}")

    def _note(self, is_right: bool, what: object) -> None:
        if not is_right:
            self.wrong.append(str(what))


def _status_of(error: grpc.aio.AioRpcError) -> pb.Status:
    details = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert details, f"UNAVAILABLE by whom? {error.details()}"
    return pb.Status.FromString(bytes(details[0]))


def _retry_delay(status: pb.Status) -> float:
    """Seconds."""
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details), f"no delay: {status.message}"
    return float(retry.retry_delay.ToTimedelta().total_seconds())

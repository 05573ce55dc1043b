"""Models and an engine that say what a test tells them to, around a real tokenizer."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import tokenizers
from rhapsode_server.engine.request import Constraint, FinishReason, SamplingParameters, TokenScore
from rhapsode_server.errors import NotFound
from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import (
    GenerationDefaults,
    ModelStatus,
    ServedVersion,
    Trouble,
    VersionState,
    VersionStatus,
)
from rhapsode_server.text.tokenizer import Tokenizer
from rhapsode_server.workers.stream import TokenStream
from tokenizers import decoders, models, pre_tokenizers

PATIENCE = 10.0
"""Seconds after which what a test waits for counts as lost."""

EOS = 0
CONTEXT_LENGTH = 64
LIMITS = Limits(
    context_length=CONTEXT_LENGTH,
    vocabulary_size=257,
    max_sequences=8,
    max_queued_requests=4,
    max_queued_tokens=10_000,
)


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, from 1 on, and `<|endoftext|>` as 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": EOS} | {character: number for number, character in enumerate(alphabet, 1)}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(inner)


TOKENIZER = byte_tokenizer()


@dataclass(slots=True, kw_only=True, eq=False)
class Submitted:
    """A request as the engine got it, and the stream on which to answer."""

    prompt_ids: Sequence[int]
    max_new_tokens: int
    sampling: SamplingParameters
    stop_token_ids: frozenset[int] = frozenset()
    min_new_tokens: int = 0
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    prompt_top_logprobs: int | None = None
    first_scored: int = 1
    priority: int = 0
    group: int | None = None
    deadline: float | None = None
    ends_at: float | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    stream: TokenStream = field(init=False)

    def __post_init__(self) -> None:
        self.stream = TokenStream(on_close=self.closed.set)

    def scores(self, *prompt_scores: TokenScore) -> None:
        """Those of the next tokens of the prompt."""
        self.stream.push_prompt_scores(prompt_scores)

    def says(self, text: str, finish_reason: FinishReason | None = None) -> None:
        self.generates(TOKENIZER.encode(text), finish_reason)

    def generates(self, token_ids: Sequence[int], finish_reason: FinishReason | None = None) -> None:
        if self.stream.started_at is None:
            self.stream.mark_started(0.0)
        if token_ids:
            self.stream.push(token_ids)
            self.stream.wake()
        if finish_reason:
            self.stream.end(finish_reason)


@dataclass(slots=True, eq=False)
class FakeEngine:
    """Answers every request by `script`, if there is one, else waits for the test to do so."""

    script: Callable[[Submitted], None] | None = None
    failure: Exception | None = None
    requests: list[Submitted] = field(default_factory=list)
    num_holds: int = 0
    num_groups: int = 0
    _arrivals: "asyncio.Queue[Submitted]" = field(default_factory=asyncio.Queue)

    @contextmanager
    def hold(self) -> Iterator[None]:
        self.num_holds += 1
        try:
            yield
        finally:
            self.num_holds -= 1

    def submit(self, **request: Any) -> TokenStream:
        assert self.num_holds, "a version could be retired between resolving and submitting"
        if self.failure:
            raise self.failure
        submitted = Submitted(**request)
        self.requests.append(submitted)
        self._arrivals.put_nowait(submitted)
        if self.script:
            self.script(submitted)
        return submitted.stream

    def new_group(self) -> int:
        self.num_groups += 1
        return self.num_groups

    def predicted_wait(self, num_tokens: int, priority: int = 0) -> float:
        return 0.0

    async def arrival(self) -> Submitted:
        """The next request that nobody has asked for yet."""
        async with asyncio.timeout(PATIENCE):
            return await self._arrivals.get()

    def will_say(self, text: str, finish_reason: FinishReason = FinishReason.LENGTH) -> None:
        self.script = lambda request: request.says(text, finish_reason)

    def will_generate(self, token_ids: Sequence[int], finish_reason: FinishReason) -> None:
        self.script = lambda request: request.generates(token_ids, finish_reason)


@dataclass(slots=True, eq=False)
class FakeModels:
    """Serves `poems` version 3 with `engine`. `failure` is raised by every look-up."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    failure: Exception | None = None
    asked: list[tuple[str, int | None, str | None]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """How the requests to the version ended."""
    decided: list[tuple[Any, ...]] = field(default_factory=list)
    """What operators asked for, by the names of ModelAdmin."""
    standby_ready: bool = False
    trouble: Trouble = field(default_factory=Trouble)
    known: list[ModelStatus] = field(default_factory=lambda: [status_of("poems", VersionState.SERVING, limits=LIMITS)])
    served: ServedVersion = field(init=False)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.served = ServedVersion(
            model="poems",
            version=3,
            tokenizer=TOKENIZER,
            defaults=GenerationDefaults(eos_token_ids=(EOS,)),
            limits=LIMITS,
            engine=self.engine,
            note_end=self.ends.append,
        )

    def change(self, **fields: Any) -> None:
        """Serve another version from now on."""
        self.served = replace(self.served, **fields)

    def resolve(
        self, model: str, *, version: int | None = None, alias: str | None = None, key: str = ""
    ) -> ServedVersion:
        self.asked.append((model, version, alias))
        self.keys.append(key)
        self._check(model)
        return self.served

    def status(self, model: str) -> ModelStatus:
        self._check(model)
        return self.statuses()[0]

    def statuses(self) -> list[ModelStatus]:
        return self.known

    async def set_traffic(
        self, model: str, weights: Mapping[int, int], *, ttl: float, reason: str, holds: bool
    ) -> None:
        self._decide(model, "set_traffic", weights, ttl, reason, holds)

    async def clear_traffic(self, model: str) -> None:
        self._decide(model, "clear_traffic")

    async def rollback(self, model: str, *, ttl: float, reason: str) -> None:
        self._decide(model, "rollback", ttl, reason)

    async def load_version(self, model: str, version: int, *, ttl: float) -> None:
        self._decide(model, "load_version", version, ttl)

    async def unload_version(self, model: str, version: int) -> None:
        self._decide(model, "unload_version", version)

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    def _decide(self, model: str, *decision: Any) -> None:
        self._check(model)
        self.decided.append(decision)

    def _check(self, model: str) -> None:
        if self.failure:
            raise self.failure
        if model not in ("", "poems"):
            raise NotFound(f"no model {model!r}; there is poems")


def status_of(name: str, state: VersionState, **fields: Any) -> ModelStatus:
    version = VersionStatus(version=3, state=state, dtype="float32", device="cpu", parameter_count=124, **fields)
    return ModelStatus(name=name, aliases={"champion": 3}, versions=(version,))

"""Callers that stream all the time, and what each version says to them offline."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from rhapsode_client import AsyncClient, RhapsodeError
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from support.publishing import tiny_tokenizer
from support.reference import generate_greedily

PROMPTS = ("the sea", "no star is", "and she sang of", "the long evenings")
LENGTH = 120
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call got."""

    version: int
    prompt: int
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Oracle:
    """What a version answers to each of the prompts: the greedy tokens of transformers, and their text."""

    model: PreTrainedModel
    length: int = LENGTH

    @cached_property
    def answers(self) -> list[tuple[tuple[int, ...], str]]:
        tokenizer = tiny_tokenizer()
        return [self._answer(tokenizer, tokenizer.encode(prompt).ids) for prompt in PROMPTS]

    def _answer(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> tuple[tuple[int, ...], str]:
        token_ids = generate_greedily(self.model, prompt_ids, self.length)
        whole = tokenizer.decode([*prompt_ids, *token_ids])
        return tuple(token_ids), whole.removeprefix(tokenizer.decode(prompt_ids))


@dataclass(eq=False)
class Streams:
    """So many callers, each of which begins its next stream as soon as one ends; until the block is left."""

    address: str
    count: int = 16
    model: str = "poems"
    length: int = LENGTH
    pause: float = 0.0
    """Seconds between two streams of a caller: less load."""
    answers: list[Answer] = field(default_factory=list)
    errors: list[RhapsodeError] = field(default_factory=list)
    _ended: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _callers: "list[asyncio.Task[None]]" = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._client = AsyncClient(self.address, timeout=PATIENCE)
        self._callers = [asyncio.create_task(self._call(number)) for number in range(self.count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Every stream comes to its end."""
        self._ended = True
        try:
            await asyncio.gather(*self._callers)
        finally:
            await self._client.close()

    async def until(self, holds: Callable[[], object]) -> None:
        """Asked after every answer."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: bool(holds()))

    async def until_next(self, count: int = 1) -> None:
        """Until so many more have been answered."""
        enough = len(self.answers) + count
        await self.until(lambda: len(self.answers) >= enough)

    async def until_answered_by(self, version: int) -> None:
        """Until the last answer is its."""
        await self.until(lambda: self.answers and self.answers[-1].version == version)

    def check(self, oracles: Mapping[int, Oracle]) -> None:
        """No call failed, and every one was answered by one version from its first token to its last."""
        assert self.errors == []
        wrong = [each for each in self.answers if not is_pure(each, oracles)]
        assert wrong == [], f"{len(wrong)} of {len(self.answers)} streams differ from what their version says offline"

    async def _call(self, number: int) -> None:
        prompt_ids = tiny_tokenizer().encode(PROMPTS[number % len(PROMPTS)]).ids
        while not self._ended:
            try:
                self.answers.append(await self._stream(number % len(PROMPTS), prompt_ids))
            except RhapsodeError as error:
                self.errors.append(error)
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(self.pause)

    async def _stream(self, prompt: int, prompt_ids: Sequence[int]) -> Answer:
        texts, token_ids = list[str](), list[int]()
        options = {"model": self.model, "temperature": 0.0, "max_new_tokens": self.length, "token_ids": True}
        async with self._client.stream(list(prompt_ids), **options) as stream:  # type: ignore[arg-type]
            async for delta in stream:
                texts.append(delta.text)
                token_ids += delta.token_ids
            assert stream.started
            return Answer(stream.started.version, prompt, tuple(token_ids), "".join(texts))


def is_pure(answer: Answer, oracles: Mapping[int, Oracle]) -> bool:
    return oracles[answer.version].answers[answer.prompt] == (answer.token_ids, answer.text)

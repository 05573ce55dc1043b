"""What is asked of every system: the same prompts, cut from WikiText-2, and the same numbers of tokens."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

DATA = Path(__file__).parents[1] / "data"
END_OF_TEXT = "<|endoftext|>"
PREAMBLE_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt, as text and as the ids that the tokenizer makes of it, and how many tokens are to follow."""

    prompt: str
    prompt_ids: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Lengths in tokens: those of prompts are lognormal between their bounds, those of completions uniform."""

    prompt: tuple[int, int] = (16, 256)
    output: tuple[int, int] = (16, 128)

    def draw_prompt(self, generator: random.Random) -> int:
        low, high = map(math.log, self.prompt)
        return round(math.exp(min(high, max(low, generator.gauss((low + high) / 2, (high - low) / 4)))))

    def draw_output(self, generator: random.Random) -> int:
        return generator.randint(*self.output)


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's own: the ids are the bytes in order of their characters, then the merges in theirs, then the end."""
    lines = (DATA / "gpt2-merges.txt").read_text("utf-8").splitlines()[1:]
    merges = [(left, right) for left, right in map(str.split, lines)]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def wikitext(path: Path | None) -> str:
    """The text that prompts are cut from: the excerpt beside this package unless another file is named."""
    return (path or DATA / "wikitext-2-test.txt").read_text("utf-8")


def make_requests(tokenizer: Tokenizer, text: str, count: int, sizes: Sizes, seed: int) -> list[Request]:
    """Each prompt begins anywhere in the text."""
    generator, ids = random.Random(seed), tokenizer.encode(text).ids
    return [
        cut(tokenizer, ids, generator, sizes.draw_prompt(generator), sizes.draw_output(generator)) for _ in range(count)
    ]


def cut(tokenizer: Tokenizer, ids: Sequence[int], generator: random.Random, length: int, num_tokens: int) -> Request:
    """A prompt of `length` tokens that is also what its own text is tokenised to; most places give one."""
    while True:
        start = generator.randrange(len(ids) - length)
        prompt_ids = tuple(ids[start : start + length])
        prompt = tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
        if tuple(tokenizer.encode(prompt).ids) == prompt_ids:
            return Request(prompt=prompt, prompt_ids=prompt_ids, num_tokens=num_tokens)


def with_preamble(tokenizer: Tokenizer, preamble: Request, requests: Sequence[Request]) -> list[Request]:
    """The requests behind one shared preamble, ids and text agreeing as the tokenizer joins them."""
    joined = [f"{preamble.prompt}\n{request.prompt}" for request in requests]
    return [
        replace(request, prompt=text, prompt_ids=tuple(tokenizer.encode(text).ids))
        for request, text in zip(requests, joined, strict=True)
    ]


def steady_start(requests: Sequence[Request], callers: int, seed: int) -> list[Request]:
    """The requests as a loop that has run for long would meet them: the first ones have only a rest left to do."""
    generator = random.Random(seed)
    first = [replace(each, num_tokens=generator.randint(1, each.num_tokens)) for each in requests[:callers]]
    return [*first, *requests[callers:]]


def poisson_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds from the start at which requests arrive, `rate` of them a second on average."""
    generator, now, arrivals = random.Random(seed), 0.0, []
    while (now := now + generator.expovariate(rate)) < seconds:
        arrivals.append(now)
    return arrivals

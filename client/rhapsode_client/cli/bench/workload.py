"""What is asked: prompts of a file one after the other, or token ids drawn at random with a fixed seed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

from rhapsode_client import GenerateOptions, InvalidRequest, ModelVersion
from rhapsode_client.arguments import Prompt
from rhapsode_client.cli.batch.lines import Line, lines_of, read_item


@dataclass(frozen=True, slots=True)
class Lengths:
    """From `low` to `high` tokens, uniformly."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """From `64` or `16:128`. Raises ValueError."""
        match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
        lengths = cls(int(match[1]), int(match[2] or match[1])) if match else None
        if lengths is None or not 0 < lengths.low <= lengths.high:
            raise ValueError(f"{text!r} is not a number of tokens, such as 64, nor a range of them, such as 16:128")
        return lengths

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"

    def draw(self, random: Random) -> int:
        return random.randint(self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests without end, the same for the same seed."""

    prompts: Sequence[tuple[Prompt, GenerateOptions]]
    """Of a file, each with its own options; empty: made up."""
    prompt_tokens: Lengths
    completion_tokens: Lengths
    vocabulary_size: int
    """Of the model, for prompts that are made up."""
    options: GenerateOptions
    seed: int

    def __iter__(self) -> Iterator[tuple[Prompt, GenerateOptions]]:
        random = Random(self.seed)
        for prompt, own in cycle(self.prompts) if self.prompts else self._made_up(random):
            drawn = GenerateOptions(max_new_tokens=self.completion_tokens.draw(random), seed=random.getrandbits(63))
            # To count them.
            yield prompt, GenerateOptions(**{**drawn, **self.options, **own, "token_ids": True})

    def _made_up(self, random: Random) -> Iterator[tuple[Prompt, GenerateOptions]]:
        while True:
            yield random.choices(range(self.vocabulary_size), k=self.prompt_tokens.draw(random)), GenerateOptions()


def prompts_of(path: Path) -> Sequence[tuple[Prompt, GenerateOptions]]:
    """A line each; those of a .jsonl file are as those of a batch.

    Raises OSError, and ValueError that names the line.
    """
    lines = [line for line in lines_of(path) if line.text.strip()]
    if not lines:
        raise ValueError(f"{path} holds no prompt")
    if path.suffix != ".jsonl":
        return [(line.text, GenerateOptions()) for line in lines]
    return [_prompt(path, line) for line in lines]


def _prompt(path: Path, line: Line) -> tuple[Prompt, GenerateOptions]:
    try:
        item = read_item(line)
    except InvalidRequest as error:
        raise ValueError(f"{path}:{line.number}: {error}") from None
    return item.prompt, item.options


def vocabulary_size(versions: Sequence[ModelVersion], version: int | None) -> int | None:
    """Ids below it are tokens of the version, or of all that are loaded; None where none is."""
    wanted = [each for each in versions if version in (None, each.version)]
    return min((each.limits.vocabulary_size for each in wanted if each.limits), default=None)

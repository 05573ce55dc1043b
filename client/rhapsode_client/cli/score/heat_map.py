"""A text coloured by how surprising each of its tokens is: on a terminal, or as far as it has colours."""

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rhapsode_client import TokenLogprob
from rhapsode_client.cli.score.figures import bits
from rhapsode_client.cli.terminal import printable


@dataclass(frozen=True, slots=True)
class Level:
    """Tokens of `least` bits of surprise and more, and how they look with colours and without."""

    least: float
    colour: str
    plain: str


LEVELS = (
    Level(0, "", ""),
    Level(3, "black on #fdf0b8", ""),
    Level(6, "black on #fcc96b", ""),
    Level(9, "black on #f5813f", "underline"),
    Level(12, "bold white on #b3202c", "reverse"),
)


def print_heat_map(tokens: Sequence[TokenLogprob]) -> None:
    """The text of `tokens` and a legend, to standard output."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    styles = [level.plain if console.no_color else level.colour for level in LEVELS]
    parts = [(printable(text, sys.stdout), styles[level]) for text, level in pieces(tokens)]
    console.print(Text.assemble(*parts), end="\n\n")
    names = [f" {name} " for name in _names()]
    console.print(Text.assemble("bits of surprise: ", *zip(names, styles, strict=True)), end="\n\n")


def _names() -> Iterator[str]:
    for low, high in pairwise(LEVELS):
        yield f"{low.least:g} to {high.least:g}"
    yield f"{LEVELS[-1].least:g} and more"


def level_of(surprise: float) -> int:
    """The index of the level of so many bits."""
    return max(index for index, level in enumerate(LEVELS) if surprise >= level.least)


def pieces(tokens: Sequence[TokenLogprob]) -> Iterator[tuple[str, int]]:
    """The text in parts and the level of each. Tokens that share a character have that of the most surprising."""
    decoder, level = codecs.getincrementaldecoder("utf-8")("replace"), 0
    for token in tokens:
        level = max(level, level_of(bits(token.logprob or 0.0)))
        text = decoder.decode(token.text)
        if text:
            # Nothing else of a line break could be coloured.
            yield (text.replace("\n", "\u21b5\n") if level else text), level
        if not decoder.getstate()[0]:
            level = 0
    if rest := decoder.decode(b"", final=True):
        yield rest, level

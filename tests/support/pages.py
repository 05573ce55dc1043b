"""Pages of the documentation as what their reader is asked to run.

A fenced block is run by its language:

    console   a line that begins with "$ " is a command, and what stands below it is what the reader should see
    bash      a script
    python    a program

All other blocks are only read. Comments above a block, which the reader does not see, say more:

    <!-- walk: skip, REASON -->      it is not run
    <!-- walk: quick, COMMAND -->    the quick walk runs this in its place
    <!-- walk: before, COMMAND -->   this is run first
    <!-- walk: background -->        it is left running, and the walk goes on once it has said what the page shows
    <!-- walk: generated -->         a model writes: of what is shown only messages of the program are compared
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import dropwhile
from pathlib import Path

_BLOCK = re.compile(r"(?P<comments>(?:^<!--[^\n]*-->\n)*)^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.M | re.S)
_DIRECTIVE = re.compile(r"<!-- walk: (\w+)(?:, (.+?))? -->")
_DIRECTIVES = {"skip", "quick", "before", "background", "generated"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and the lines that a page shows below it."""

    command: str
    shown: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """A page shows that by the complaint of the program."""
        return any(re.match(r"rhapsode(-\w+)?: ", line) for line in self.shown[:1])


@dataclass(frozen=True, kw_only=True)
class Block:
    """`where` is the page and the line; `directives` are those of the comments above."""

    where: str
    language: str
    text: str
    directives: dict[str, str]

    @property
    def steps(self) -> list[Step]:
        """Of a console; a command goes on where its line ends with a backslash."""
        lines = list(dropwhile(lambda line: not line.startswith("$ "), self.text.splitlines()))
        steps: list[Step] = []
        while lines:
            command = [lines.pop(0).removeprefix("$ ")]
            while command[-1].endswith("\\"):
                command.append(lines.pop(0))
            shown = []
            while lines and not lines[0].startswith("$ "):
                shown.append(lines.pop(0))
            steps.append(Step(command="\n".join(command), shown=tuple(shown)))
        return steps


@dataclass(frozen=True)
class Page:
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def blocks(self) -> Iterator[Block]:
        for match in _BLOCK.finditer(self.text):
            line = self.text.count("\n", 0, match.start("language")) + 1
            directives = dict(_DIRECTIVE.findall(match["comments"]))
            unknown = directives.keys() - _DIRECTIVES
            assert not unknown, f"{self.path.name}:{line}: no such directive: {', '.join(unknown)}"
            yield Block(
                where=f"{self.path.name}:{line}", language=match["language"], text=match["text"], directives=directives
            )

"""A Dockerfile as its stages and instructions."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    keyword: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Stage:
    """`name` is empty for one without; `instructions` come after its FROM."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def values(self, keyword: str) -> list[str]:
        return [each.arguments for each in self.instructions if each.keyword == keyword]

    def pairs(self, keyword: str) -> dict[str, str]:
        """What its lines of NAME=VALUE say."""
        found = re.findall(r'([\w.]+)=("[^"]*"|\S+)', " ".join(self.values(keyword)))
        return {name: value.strip('"') for name, value in found}


def read_stages(path: Path) -> list[Stage]:
    """From the first to the last, which is the image."""
    stages: list[Stage] = []
    for instruction in read_instructions(path):
        if instruction.keyword == "FROM":
            base, _, name = instruction.arguments.partition(" AS ")
            stages.append(Stage(base, name, ()))
        else:
            last = stages.pop()
            stages.append(Stage(last.base, last.name, (*last.instructions, instruction)))
    return stages


def read_instructions(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]

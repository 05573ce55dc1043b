"""The systems that are measured, each in a process of its own.

A system is made from a Setting, runs Plans one after another and is closed. One that this machine cannot run raises
UnavailableError with the reason, which the report repeats.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.serving.figures import Measured
from benchmarks.serving.recorder import Plan


class UnavailableError(Exception):
    """Why a system cannot be measured here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`folder` holds the model as transformers saves it, `models` the same one as a model directory. `threads` 0: what
    the server takes by default, and every core for the others."""

    folder: Path
    models: Path
    device: str
    precision: str
    threads: int
    max_callers: int
    server_flags: tuple[str, ...] = ()

    @property
    def cores(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


class System(Protocol):
    def run(self, plan: Plan) -> Measured: ...

    def processes(self) -> Sequence[psutil.Process]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`factory` is module:class below this package; `callers` are the closed loops it is measured in."""

    name: str
    factory: str
    precision: str
    callers: tuple[int, ...]

    @property
    def title(self) -> str:
        return f"{self.name} {self.precision}"

"""What the command line says about a run beside its recipe. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`key` is the identity of the run; progress goes to `textfile` for Prometheus and as JSON lines to `stream`."""

    key: str
    force: bool = False
    feedback_dir: Path | None = None
    max_minutes: float | None = None
    textfile: Path | None = None
    stream: TextIO | None = None

"""`reproduce`: what is needed to run a version again, and whether the second loss curve is the first one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from ..errors import SourceError
from .records import read_json, read_json_lines

TRAINING_LOG = "training_log.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """How a version was made: the recipe's name, its resolved configuration, the hashes of its data, and its log."""

    recipe: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveComparison:
    """Losses at the same steps: `largest` is their largest difference in nats per token, at step `step`.

    `unmatched` are steps that only one of the two has logged. A loss that is not finite equals only another such one.
    """

    steps: int
    largest: float
    step: int | None
    unmatched: tuple[int, ...]
    tolerance: float

    @property
    def same(self) -> bool:
        return self.steps > 0 and not self.unmatched and self.largest <= self.tolerance


def recorded_run(version: Path) -> RecordedRun:
    """Raises SourceError when the version was not made by a recipe, or its log is missing."""
    lineage, log = read_json(version / "lineage.json"), read_json_lines(version / TRAINING_LOG)
    if not lineage.get("recipe"):
        raise SourceError(f"{version}: no recipe in lineage.json: it was not trained here")
    if not log:
        raise SourceError(f"{version}: no {TRAINING_LOG}: its loss curve is not on record")
    return RecordedRun(recipe=lineage["recipe"], config=lineage["config"], data=lineage["data"], log=log)


def compare_curves(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, tolerance: float
) -> CurveComparison:
    """Compares the training losses of two logs. On the same machine and software a run repeats itself exactly: a
    tolerance is for others."""
    left, right = _losses(first), _losses(second)
    differences = {step: _difference(left[step], right[step]) for step in left if step in right}
    worst = max(differences, key=lambda step: differences[step], default=None)
    return CurveComparison(
        steps=len(differences),
        largest=0.0 if worst is None else differences[worst],
        step=worst,
        unmatched=tuple(sorted(left.keys() ^ right.keys())),
        tolerance=tolerance,
    )


def _losses(log: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Loss by step; null is how JSON holds what is not finite."""
    return {
        int(entry["step"]): math.nan if entry["loss"] is None else float(entry["loss"])
        for entry in log
        if "loss" in entry and "step" in entry
    }


def _difference(a: float, b: float) -> float:
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b)
    return 0.0 if math.isfinite(a) == math.isfinite(b) else math.inf


def render_curves(comparison: CurveComparison) -> Text:
    """One line."""
    if comparison.same:
        return Text(f"same loss curve: {comparison.steps} steps, largest difference {comparison.largest:.3g}")
    if comparison.unmatched:
        return Text(f"another loss curve: only one of the two has logged steps {_some(comparison.unmatched)}")
    return Text(
        f"another loss curve: {comparison.largest:.3g} nats per token apart at step {comparison.step} "
        f"(allowed: {comparison.tolerance:g})"
    )


def _some(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:5]))
    return shown if len(steps) <= 5 else f"{shown} and {len(steps) - 5} more"

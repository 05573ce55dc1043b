"""What the trainer measured of a version, for those who ask the server."""

import json
import sys
from pathlib import Path
from typing import Any

from rhapsode_server.models.served import EvaluationSummary


def read_evaluation(path: Path) -> EvaluationSummary | None:
    """Of the version at `path`; None when nothing was measured. What cannot be understood counts as not measured."""
    try:
        document: Any = json.loads((path / "evaluation.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    measured, verdict = _object(document, "after"), _object(document, "verdict")
    accepted = verdict.get("accepted")
    summary = EvaluationSummary(
        bits_per_byte=_number(measured, "bits_per_byte"),
        perplexity=_number(measured, "perplexity"),
        accepted=accepted if isinstance(accepted, bool) else None,
    )
    return None if summary == EvaluationSummary() else summary


def _object(document: Any, name: str) -> dict[str, Any]:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _number(document: dict[str, Any], name: str) -> float | None:
    found: Any = document.get(name)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    # JSON has integers that no float holds, and Python's has NaN.
    return float(found) if is_number and abs(found) <= sys.float_info.max else None

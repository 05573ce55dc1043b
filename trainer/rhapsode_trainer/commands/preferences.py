"""What people preferred, from the ratings of a model."""

from dataclasses import dataclass
from typing import Any

from rhapsode_contract.model_directory import ModelFolder
from rich.text import Text

from ..errors import SourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One blind sheet: how many of its texts were preferred to those of the other version, and how sure that is.

    `preferred` and `bounds` are shares of the items that were decided; `alpha` is Krippendorff's, None if unknown.
    """

    version: int
    other: int
    won: int
    lost: int
    ties: int
    preferred: float | None
    bounds: tuple[float, float]
    confidence: float
    raters: int
    alpha: float | None


def read_preferences(folder: ModelFolder, a: int, b: int) -> list[Preference]:
    """How b fared against a, for each sheet of the two, oldest first. Raises CorruptFile and SourceError."""
    names = {f"{folder.name} {a}": "a", f"{folder.name} {b}": "b"}
    latest: dict[str, dict[str, Any]] = {}
    try:
        for record in folder.ratings():
            if set(record["versions"].values()) == set(names):
                latest[record["sheet"]] = record
        return [_preference(record, a, b, names) for record in latest.values()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{folder.path / 'ratings.jsonl'}: not ratings of versions: {error!r}") from None


def _preference(record: dict[str, Any], a: int, b: int, names: dict[str, str]) -> Preference:
    turned = names[record["versions"]["b"]] == "a"
    won, lost = ("a", "b") if turned else ("b", "a")
    share, (low, high) = record["preference_b"], record["preference_b_interval"]
    if turned:
        share, low, high = None if share is None else 1 - share, 1 - high, 1 - low
    return Preference(
        version=b,
        other=a,
        won=int(record["items"][won]),
        lost=int(record["items"][lost]),
        ties=int(record["items"]["tie"]),
        preferred=share,
        bounds=(float(low), float(high)),
        confidence=float(record["confidence"]),
        raters=int(record["raters"]),
        alpha=record["agreement_alpha"],
    )


def preference_line(preference: Preference) -> Text:
    """One line for the screen."""
    low, high = preference.bounds
    share = "none decided" if preference.preferred is None else f"{preference.preferred:.0%}"
    agreement = "" if preference.alpha is None else f", agreement (alpha) {preference.alpha:.2f}"
    return Text(
        f"people preferred version {preference.version} to {preference.other} in {preference.won} texts, the other in "
        f"{preference.lost}, neither in {preference.ties}: {share}, {preference.confidence:.0%} interval "
        f"{low:.0%} to {high:.0%}; raters {preference.raters}{agreement}"
    )

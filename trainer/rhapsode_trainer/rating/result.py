"""What the ratings say: which version people prefer, how sure that is, and how far they agree.

The interval is over items, not ratings, because several ratings of one item are not independent: an item is won by the
version that more of its raters preferred, and left out when it is a draw (the sign test). Interval: Wilson 1927.
Agreement: Krippendorff's alpha over the nominal values a, b and tie (1: perfect, 0: as if by chance).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ..errors import ConfigError
from .key import Key
from .ratings import Rating, read_ratings

Verdicts = Mapping[tuple[str, int], str]  # (rater, item) -> "a", "b" or "tie"


def import_ratings(key_path: Path, paths: Sequence[Path], *, confidence: float = 0.95) -> dict[str, Any]:
    """The record for evaluation.json of the ratings in `paths`. No rater is named in it.

    Raises DataError for a malformed file, ConfigError when agreement needs a library that is not installed.
    """
    key = Key.load(key_path)
    ratings = read_ratings(paths, key)
    verdicts = {(rating.rater, rating.item): _verdict(rating, key) for rating in ratings}
    winners = Counter(_winner(verdicts, item) for item in range(1, len(key.left) + 1))
    votes = Counter(verdicts.values())
    decided = winners["a"] + winners["b"]
    return {
        "sheet": key.sheet,
        "versions": dict(key.versions),
        "raters": len({rater for rater, _ in verdicts}),
        "ratings": {name: votes[name] for name in ("a", "b", "tie")},
        "items": {name: winners[name] for name in ("a", "b", "tie", "unrated")},
        "preference_b": winners["b"] / decided if decided else None,
        "preference_b_interval": wilson_interval(winners["b"], decided, confidence),
        "confidence": confidence,
        "left_share": _left_share(ratings),
        "agreement_alpha": _agreement(verdicts),
    }


def wilson_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Bounds of a probability of which `successes` of `trials` were seen; without trials: (0, 1).

    >>> [round(bound, 4) for bound in wilson_interval(8, 10, 0.95)]
    [0.4902, 0.9433]
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = successes / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    margin = z * sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    low, high = min(share, centre - margin), max(share, centre + margin)  # rounding must not put the share outside
    return max(0.0, low), min(1.0, high)


def _verdict(rating: Rating, key: Key) -> str:
    return "tie" if rating.choice == "tie" else key.preferred(rating.item, rating.choice)


def _winner(verdicts: Verdicts, item: int) -> str:
    votes = Counter(verdict for (_, rated), verdict in verdicts.items() if rated == item)
    if not votes:
        return "unrated"
    return "tie" if votes["a"] == votes["b"] else max(("a", "b"), key=votes.__getitem__)


def _left_share(ratings: Sequence[Rating]) -> float | None:
    """Of the ratings that are no tie, the share for the left side: far from a half, raters followed the position."""
    sides = Counter(rating.choice for rating in ratings)
    decided = sides["left"] + sides["right"]
    return sides["left"] / decided if decided else None


def _agreement(verdicts: Verdicts) -> float | None:
    """None where there is nothing to compare: no item rated twice, or one and the same verdict everywhere."""
    shared = [item for item, count in Counter(item for _, item in verdicts).items() if count > 1]
    values = {verdict for (_, item), verdict in verdicts.items() if item in shared}
    if len(values) < 2:
        return None
    try:
        import krippendorff
    except ImportError:
        raise ConfigError("agreement needs a library: pip install 'rhapsode-trainer[rating]'") from None
    table = [
        [Counter(v for (_, i), v in verdicts.items() if i == item)[name] for name in sorted(values)] for item in shared
    ]
    return float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal"))

"""How requests are split between versions."""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of requests in proportion to `weights`, by version. Empty: nobody answers."""

    weights: Mapping[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        total = sum(self.weights.values())
        shares = [f"version {version} ({self.weights[version] / total:.0%})" for version in sorted(self.versions)]
        return ", ".join(shares) or "nobody"

    @property
    def versions(self) -> frozenset[int]:
        """Those that have a share."""
        return frozenset(version for version, weight in self.weights.items() if weight)

    def pick(self, key: str, among: Collection[int]) -> int | None:
        """The version for a key, one of `among`; None if none of these has a share.

        The same for equal keys. When the weight of the newest version grows, the keys that it had stay with it.
        """
        shares = [(version, self.weights[version]) for version in sorted(self.versions.intersection(among))]
        if not shares:
            return None
        bounds = list(accumulate(weight for _, weight in shares))
        return shares[bisect_right(bounds, _uniform(key) * bounds[-1])][0]


def _uniform(key: str) -> float:
    """From 0 to below 1, as good as random but the same for equal keys."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48

"""The versions of a model that this server refused, and when each is tried again."""

import math
from dataclasses import dataclass, field

from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.models.replica import Backoff

# When a version that was refused for a passing reason is tried again, in seconds: then ever later.
RETRY_DELAY, LONGEST_RETRY = 10.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`fingerprint` is that of its files; `retry_at` is on the clock of whoever adds it, in seconds."""

    refusal: ModelRefused
    fingerprint: str
    retry_at: float
    is_rollback: bool


@dataclass(slots=True)
class Quarantine:
    """A version stays in it until its files change, its time comes, or it is let out."""

    _refused: dict[int, Refused] = field(default_factory=dict)
    _backoffs: dict[int, Backoff] = field(default_factory=dict)

    def __contains__(self, number: int) -> bool:
        return number in self._refused

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset(self._refused)

    def refusal(self, number: int) -> ModelRefused:
        return self._refused[number].refusal

    @property
    def rolled_back(self) -> frozenset[int]:
        """Those that could run, if badly."""
        return frozenset(number for number, refused in self._refused.items() if refused.is_rollback)

    def add(
        self,
        number: int,
        refusal: ModelRefused,
        fingerprint: str,
        *,
        retry_from: float = math.inf,
        is_rollback: bool = False,
    ) -> None:
        """It is tried again a while after `retry_from`; by default only when its files change."""
        pause = self._backoffs.setdefault(number, Backoff(longest=LONGEST_RETRY)).pause()
        self._refused[number] = Refused(
            refusal=refusal,
            fingerprint=fingerprint,
            retry_at=retry_from + RETRY_DELAY + pause,
            is_rollback=is_rollback,
        )

    def let_out(self, number: int) -> None:
        """It may be tried again."""
        self._refused.pop(number, None)

    def forget(self, number: int) -> None:
        """Also how often it was tried."""
        self.let_out(number)
        self._backoffs.pop(number, None)

    def is_due(self, number: int, fingerprint: str | None, now: float) -> bool:
        """Whether to try it again, with its files as they are now; None: they were not looked at."""
        refused = self._refused[number]
        is_known = fingerprint is not None and refused.fingerprint != ""
        return now >= refused.retry_at or (is_known and fingerprint != refused.fingerprint)

"""How fast an engine works off what waits."""

import math
from dataclasses import dataclass, field

# Seconds of full work, and requests that ended, after which a measurement counts for 1/e: long against a request, so
# that what is measured is the mixture of prompts and decoding, and short against changes of load.
_MEMORY_SECONDS = 30.0
_MEMORY_REQUESTS = 50.0


@dataclass(slots=True)
class Smoothed:
    """The ratio of two growing sums whose parts count less the older they are: 1/e after `memory`."""

    memory: float
    _numerator: float = 0.0
    _denominator: float = 0.0

    def add(self, numerator: float, denominator: float, *, age: float) -> None:
        """Everything before grows older by `age`."""
        fading = math.exp(-age / self.memory)
        self._numerator = self._numerator * fading + numerator
        self._denominator = self._denominator * fading + denominator

    @property
    def value(self) -> float | None:
        """None before there is anything to go by."""
        return self._numerator / self._denominator if self._numerator and self._denominator else None


@dataclass(slots=True)
class WorkRate:
    """Tokens asked for that the engine works off in a second when it has all it can run.

    An engine with room for more computes fewer tokens a second than it could, so only time in which requests wait
    counts. Tokens computed are counted rather than requests that end, because these end in bursts; and how many tokens
    a request comes to need for each that it asks for, because most end before max_new_tokens.
    """

    _speed: Smoothed = field(default_factory=lambda: Smoothed(_MEMORY_SECONDS))
    _need: Smoothed = field(default_factory=lambda: Smoothed(_MEMORY_REQUESTS))
    _busy_since: float | None = None

    @property
    def is_full(self) -> bool:
        """Whether requests waited after the last step."""
        return self._busy_since is not None

    def note_step(self, num_tokens: int, num_waiting: int, now: float) -> None:
        """A step computed so many tokens and left so many requests waiting."""
        if self._busy_since is not None:
            seconds = now - self._busy_since
            self._speed.add(num_tokens, seconds, age=seconds)
        self._busy_since = now if num_waiting else None

    def note_end(self, num_computed: int, num_asked: int) -> None:
        """A request that ran has ended."""
        self._need.add(num_computed, num_asked, age=1.0)

    def seconds_for(self, num_asked: int) -> float:
        """For so many tokens of requests that wait. 0 before anything was measured."""
        speed = self._speed.value
        return num_asked * (self._need.value or 1.0) / speed if speed else 0.0

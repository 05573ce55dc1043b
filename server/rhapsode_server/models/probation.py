"""Whether a version holds what its proof promised: what is noted while it serves, and the verdict on it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.engine import EngineStats
from rhapsode_server.engine.refusal import NON_FINITE_LOGITS, ModelRefused

WORKER_CRASHED = "worker_crashed"
ERROR_RATE = "error_rate"
LATENCY = "latency"

# As `rpc` labels how requests end. Others say nothing of the version: callers cancel, time out and send what is wrong.
_NOT_FINITE = "not_finite"
_ANSWERED = "ok"
FAILURES = frozenset({"error", "unavailable", _NOT_FINITE})

MIN_NOT_FINITE, MIN_FAILURES, MIN_STEPS = 3, 5, 200
MIN_RATIO_OF_ERRORS = 2.0
MIN_NOT_FINITE_RATE = 0.001
NUM_ENDS, NUM_STEPS = 1000, 500


@dataclass(slots=True, eq=False)
class Vitals:
    """What a version did lately, all its replicas together: the last `NUM_ENDS` requests, and of each batch size the
    last `NUM_STEPS` decode steps. Memory is bounded."""

    crashes: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    num_not_finite: int = 0
    """Of all its requests."""
    _num_ended: int = 0
    _ends: deque[str] = field(default_factory=lambda: deque(maxlen=NUM_ENDS))
    _steps: dict[int, deque[float]] = field(default_factory=dict)

    def note_end(self, outcome: str) -> None:
        """A request ended; `outcome` is the label under which `rpc` counts it."""
        if outcome == _ANSWERED or outcome in FAILURES:
            self._ends.append(outcome)
            self._num_ended += 1
            self.num_not_finite += outcome == _NOT_FINITE

    def note_step(self, stats: EngineStats, seconds: float) -> None:
        """An engine made a step. Only those without prompts count: how long a prompt takes is its length's doing."""
        if stats.batch_rows and stats.batch_tokens == stats.batch_rows:
            size = _batch_size(stats.batch_rows)
            if size not in self._steps:
                self._steps[size] = deque(maxlen=NUM_STEPS)
            self._steps[size].append(seconds)

    def note_crash(self, reason: str) -> None:
        """A process that had served ended without being told to; `reason` is that of its exit, such as `killed`."""
        self.crashes.append(reason)

    @property
    def num_failures(self) -> int:
        return sum(outcome in FAILURES for outcome in self._ends)

    @property
    def num_ends(self) -> int:
        return len(self._ends)

    @property
    def error_rate(self) -> float:
        return self.num_failures / self.num_ends if self.num_ends else 0.0

    @property
    def not_finite_rate(self) -> float:
        return self._ends.count(_NOT_FINITE) / self.num_ends if self.num_ends else 0.0

    @property
    def is_often_not_finite(self) -> bool:
        """Of all its requests: a few among many may be what the callers sent."""
        return self.num_not_finite >= MIN_NOT_FINITE and self.num_not_finite > MIN_NOT_FINITE_RATE * self._num_ended

    def step_seconds(self) -> dict[int, float]:
        """The median decode step by batch size (a power of two, rows rounded up), of those often enough seen."""
        return {size: median(steps) for size, steps in self._steps.items() if len(steps) >= MIN_STEPS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probation:
    """A version is compared with the one `before` until then, on the clock of whoever asks, in seconds."""

    before: Vitals
    until: float

    def verdict(self, vitals: Vitals, config: ServerConfig) -> ModelRefused | None:
        """Why the version is to be rolled back, if it is."""
        return judge(vitals, self.before, max_error_rate=config.max_error_rate, max_slowdown=config.max_slowdown)


@dataclass(slots=True)
class Trials:
    """The versions of a model that are on probation, and those that have held one."""

    proven: set[int] = field(default_factory=set)
    _probations: dict[int, Probation] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        return list(self._probations)

    def begin(self, number: int, probation: Probation) -> None:
        self._probations[number] = probation

    def end(self, number: int) -> None:
        """Without a verdict."""
        self._probations.pop(number, None)

    def failed(self, vitals: Mapping[int, Vitals], now: float, config: ServerConfig) -> list[tuple[int, ModelRefused]]:
        """Those that do not hold theirs, which ends with that; whose time is over is proven."""
        failed = []
        for number, probation in list(self._probations.items()):
            refusal = probation.verdict(vitals[number], config)
            if refusal is not None:
                failed.append((number, refusal))
            elif now >= probation.until:
                self.proven.add(number)
            else:
                continue
            self.end(number)
        return failed


def judge(vitals: Vitals, before: Vitals | None, *, max_error_rate: float, max_slowdown: float) -> ModelRefused | None:
    """Why a version is to be rolled back, if it is; `before` is how the one that served before it did.

    Takes about a millisecond: ask every second or so, not after every step.
    """
    return (
        _crashed(vitals)
        or _not_finite(vitals, before or Vitals())
        or _fails(vitals, before or Vitals(), max_error_rate)
        or _is_slow(vitals, before or Vitals(), max_slowdown)
    )


def _crashed(vitals: Vitals) -> ModelRefused | None:
    if not vitals.crashes:
        return None
    return ModelRefused(WORKER_CRASHED, f"its engine process ended while it served: {', '.join(vitals.crashes)}")


def _not_finite(vitals: Vitals, before: Vitals) -> ModelRefused | None:
    is_worse = vitals.not_finite_rate > MIN_RATIO_OF_ERRORS * before.not_finite_rate
    if not (vitals.is_often_not_finite and is_worse):
        return None
    return ModelRefused(NON_FINITE_LOGITS, f"{vitals.num_not_finite} requests met logits that are not finite")


def _fails(vitals: Vitals, before: Vitals, max_error_rate: float) -> ModelRefused | None:
    limit = max(max_error_rate, MIN_RATIO_OF_ERRORS * before.error_rate)
    if vitals.num_failures < MIN_FAILURES or vitals.error_rate <= limit:
        return None
    detail = (
        f"{vitals.num_failures} of the last {vitals.num_ends} requests failed, {vitals.error_rate:.1%}; "
        f"{before.error_rate:.1%} with the version before, {limit:.1%} may"
    )
    return ModelRefused(ERROR_RATE, detail)


def _is_slow(vitals: Vitals, before: Vitals, max_slowdown: float) -> ModelRefused | None:
    theirs = before.step_seconds()
    for size, seconds in sorted(vitals.step_seconds().items()):
        if size in theirs and seconds > max_slowdown * theirs[size]:
            detail = (
                f"a step of up to {size} requests takes {seconds * 1e3:.3g} ms, {seconds / theirs[size]:.1f} times the "
                f"{theirs[size] * 1e3:.3g} ms of the version before; {max_slowdown:g} times may be"
            )
            return ModelRefused(LATENCY, detail)
    return None


def _batch_size(rows: int) -> int:
    return 1 << (rows - 1).bit_length()

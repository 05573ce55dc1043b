"""What the front-end and a worker say to each other, over a private socket pair. One message a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rhapsode_server.engine.engine import EngineStats, StepResult
from rhapsode_server.engine.events import PromptScores, Started, TokenEvent
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import EngineRequest, FinishReason, TokenScore
from rhapsode_server.engine.usage import Usage
from rhapsode_server.workers.exits import ExitReason


@dataclass(frozen=True, slots=True)
class Start:
    """To the worker, first: load this, and give way meanwhile if other workers serve."""

    options: EngineOptions
    gives_way: bool


@dataclass(frozen=True, slots=True)
class Submit:
    """To the worker: a request."""

    request: EngineRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: nobody waits for this request any more."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To the worker: give a sign of life."""


@dataclass(frozen=True, slots=True)
class Pong:
    """From the worker: it takes messages between two steps, and what it takes of the machine."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Imported:
    """From the worker, first: what the engine needs is imported."""


@dataclass(frozen=True, slots=True)
class Stage:
    """From the worker: `warming`, the weights are loaded and the proof runs; `canary`, the canary runs."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From the worker: requests may come.

    `canary` says what was compared; `memory_bytes` is what weights and KV cache may take of the device.
    """

    device: str
    dtype: str
    parameter_count: int
    context_length: int
    canary: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """From the worker, last: it cannot run this model."""

    reason: str
    detail: str


class Step(NamedTuple):
    """From the worker: all news of one step, which took this long, and the requests whose constraint became ready.

    `token_ids` has the new token of each of `request_ids`. In columns, because objects take fifty times as long to
    pickle. `scores` and `ends` are by request id; ends come after tokens, with their reason and its detail.
    """

    request_ids: Sequence[int]
    token_ids: Sequence[int]
    scores: Sequence[tuple[int, TokenScore]]
    ends: Sequence[tuple[int, FinishReason, str]]
    started: Sequence[Started]
    prompt_scores: Sequence[PromptScores]
    stats: EngineStats
    seconds: float
    prepared: Sequence[int] = ()

    @classmethod
    def of(
        cls, result: StepResult, seconds: float, prepared: Sequence[int] = (), earlier: Sequence[TokenEvent] = ()
    ) -> "Step":
        """`earlier` are ends from before the step."""
        events = [*earlier, *result.events]
        drawn = [event for event in events if event.token_id is not None]
        request_ids, token_ids, _, scores, _ = zip(*drawn, strict=True) if drawn else ((),) * 5
        return cls(
            request_ids=request_ids,
            token_ids=token_ids,
            scores=[(request_id, score) for request_id, score in zip(request_ids, scores, strict=True) if score],
            ends=[(e.request_id, e.finish_reason, e.detail) for e in events if e.finish_reason is not None],
            started=result.started,
            prompt_scores=result.prompt_scores,
            stats=result.stats,
            seconds=seconds,
            prepared=prepared,
        )


@dataclass(frozen=True, slots=True)
class Crashed:
    """From the worker, last: a bug, or a device that failed."""

    traceback: str
    reason: ExitReason


FromWorker = Imported | Stage | Ready | Refused | Crashed | Step | Pong
ToWorker = Start | Submit | Cancel | Ping

"""What the front-end and a worker say to each other, over a private socket pair. One message a step."""

from dataclasses import dataclass, field

from rhapsode_server.engine.engine import StepResult
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import EngineRequest
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
    """From the worker: it takes messages between two steps."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From the worker: all news of one step, which took this long, and the requests whose constraint became ready."""

    result: StepResult
    seconds: float
    prepared: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Crashed:
    """From the worker, last: a bug, or a device that failed."""

    traceback: str
    reason: ExitReason


FromWorker = Imported | Stage | Ready | Refused | Crashed | Step | Pong
ToWorker = Start | Submit | Cancel | Ping

"""What the front-end and a worker say to each other, over a private socket pair. One message a step."""

from dataclasses import dataclass, field

from rhapsode_server.engine.engine import StepResult
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import EngineRequest


@dataclass(frozen=True, slots=True)
class Start:
    """To the worker, first: load this."""

    options: EngineOptions


@dataclass(frozen=True, slots=True)
class Submit:
    """To the worker: a request."""

    request: EngineRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: nobody waits for this request any more."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Warming:
    """From the worker: the weights are loaded, the proof runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From the worker: requests may come."""

    device: str
    dtype: str
    parameter_count: int
    context_length: int


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


FromWorker = Warming | Ready | Refused | Crashed | Step
ToWorker = Start | Submit | Cancel

"""What is known of a call while it runs: for its answer, its line in the log and the metrics."""

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc.quota import Quota
from rhapsode_server.rpc.trace import NO_TRACE, Trace
from rhapsode_server.rpc.transcript import Transcript
from rhapsode_server.workers.stream import TokenStream

if TYPE_CHECKING:
    from rhapsode_server.rpc.requests.generate import GenerationRequest

REQUEST_ID_KEY = "x-request-id"
TRAFFIC_KEY_KEY = "x-traffic-key"

# The caller's own clock ends a call too, often a moment before ours.
_DEADLINE_SLACK = 0.05
_NOT_FINITE = FinishReason.NOT_FINITE.value
_REQUEST_ID = re.compile(r"[ -~]{1,128}")


def is_request_id(text: str) -> bool:
    """Whether a caller may name a request so: 1 to 128 printable ASCII characters."""
    return bool(_REQUEST_ID.fullmatch(text))


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of one of our services, or a completion of a batch, which has a `branch` of its call.

    Times are `time.monotonic()` seconds; `tokens` are those of a generation. `deadline` is when the caller gives up.
    Where traffic is split between versions, calls of one `traffic_key` go to the same one. `caller` is who it is, by
    its token or certificate, and `quota` what is left to it. `request` is what a completion is asked to be, and
    `tokenising` when that of its prompt began and ended. Of an `is_batch` each completion is counted by itself.
    `transcript` is there where the log is to show it; `details` go there too.
    """

    method: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    arrived_at: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    traffic_key: str = ""
    caller: str = ""
    quota: Quota = field(default_factory=Quota)
    model: str = ""
    version: int | None = None
    served: ServedVersion | None = None
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    tokens: TokenStream | None = None
    last_tokens_at: float | None = None
    request: "GenerationRequest | None" = None
    tokenising: tuple[float, float] | None = None
    is_batch: bool = False
    trace: Trace = NO_TRACE
    transcript: Transcript | None = None
    details: dict[str, object] = field(default_factory=dict)

    def branch(self) -> "Call":
        """One of many answers of this call."""
        return Call(
            method=self.method,
            request_id=self.request_id,
            arrived_at=self.arrived_at,
            deadline=self.deadline,
            traffic_key=self.traffic_key,
            transcript=self.transcript,
        )

    def answered_by(self, version: ServedVersion) -> None:
        self.model, self.version, self.served = version.model, version.version, version

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((REQUEST_ID_KEY, self.request_id),)

    @property
    def is_expired(self) -> bool:
        """Whether the caller's time is over, or as good as over."""
        return self.deadline is not None and time.monotonic() >= self.deadline - _DEADLINE_SLACK

    @property
    def total(self) -> float:
        """Seconds since the arrival."""
        return time.monotonic() - self.arrived_at

    @property
    def queue(self) -> float | None:
        """Seconds from the arrival until the engine began with the prompt."""
        return self._until(self.tokens.started_at if self.tokens else None)

    @property
    def first_token(self) -> float | None:
        """Seconds from the arrival until the first token."""
        return self._until(self.tokens.first_token_at if self.tokens else None)

    def _until(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.arrived_at


def count_completion(metrics: Metrics, call: Call, outcome: str) -> None:
    """A completion, or the call that was to bring it, ended with `outcome`."""
    if call.served is not None:
        call.served.note_end(_NOT_FINITE if call.finish_reason == _NOT_FINITE else outcome)
    metrics.count_request(call.model, "" if call.version is None else call.version, outcome, call.finish_reason)
    if call.tokens is not None and call.version is not None:
        metrics.observe_request(
            call.model, call.version, queue=call.queue, first_token=call.first_token, total=call.total
        )


# Set by the interceptor in the task of each call.
current_call: ContextVar[Call] = ContextVar("current_call")

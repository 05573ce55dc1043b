"""What happens around every call, whichever way it came: request id, access, admission, metrics, a line in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.access import Access, Caller
from rhapsode_server.rpc.call import REQUEST_ID_KEY, TRAFFIC_KEY_KEY, Call, count_completion, is_request_id
from rhapsode_server.rpc.errors import (
    BUG,
    CANCELLED,
    EXPIRED,
    OK,
    Outcome,
    logged_message_of,
    message_of,
    outcome_of,
)
from rhapsode_server.rpc.open_calls import OpenCalls
from rhapsode_server.rpc.trace import NO_TRACING, Tracing

logger = logging.getLogger("rhapsode.rpc")

_GENERATES = frozenset({"Generate", "GenerateStream", "completions", "chat/completions"})
_REFUSED_WHILE_DRAINING = ("/rhapsode.v1.GenerationService/", "/v1/completions", "/v1/chat/completions")


class Reception:
    """What callers send and get is logged only if it `logs_prompts`."""

    def __init__(
        self,
        metrics: Metrics,
        open_calls: OpenCalls,
        access: Access,
        *,
        tracing: Tracing = NO_TRACING,
        logs_prompts: bool = False,
    ) -> None:
        self._metrics = metrics
        self._access = access
        self._tracing = tracing
        self.open_calls = open_calls
        self.logs_prompts = logs_prompts

    def begin(self, method: str, path: str, caller: Caller, deadline: float | None) -> Call:
        """A call of `method`, which access knows by its `path`, arrived."""
        call = Call(method=method, deadline=deadline)
        call.trace = self._tracing.begin(call, path, caller.invocation_metadata() or ())
        return call

    @contextmanager
    def admitted(self, call: Call, path: str, caller: Caller) -> Iterator[None]:
        """It is in progress. Raises Unauthenticated, PermissionDenied, LimitReached and Draining."""
        adopt_request_id(call, _metadata(caller, REQUEST_ID_KEY))
        call.traffic_key = _metadata(caller, TRAFFIC_KEY_KEY)
        with self._access.admitted(call, path, caller):
            if path.startswith(_REFUSED_WHILE_DRAINING):
                self.open_calls.check_admission()
            yield

    def report(self, call: Call, outcome: Outcome, caller: Caller, error: str = "") -> None:
        """It ended."""
        self._metrics.count_call(call.method, outcome.label)
        if call.method in _GENERATES and not call.is_batch:
            count_completion(self._metrics, call, outcome.label)
        elif call.method == "Score" and call.served is not None:
            call.served.note_end(outcome.label)
        call.trace.end(call, outcome)
        # `rhapsode admin status --watch` asks every second.
        level = logging.DEBUG if call.method == "GetStatus" and outcome is OK else logging.INFO
        fields = log_fields(call, outcome, peer=caller.peer(), error=error)
        shown = {name: value for name, value in fields.items() if value not in (None, "", 0)}
        logger.log(level, "request", extra={"fields": shown})

    def report_left(self, call: Call, caller: Caller) -> None:
        """The caller ended it."""
        self.report(call, EXPIRED if call.is_expired else CANCELLED, caller)

    def report_failure(self, call: Call, error: Exception, caller: Caller) -> Outcome:
        """It failed; how that is called."""
        outcome = outcome_of(error)
        if outcome is BUG:
            logger.error("unexpected failure", exc_info=error, extra={"fields": {"request_id": call.request_id}})
        say = message_of if self.logs_prompts else logged_message_of
        self.report(call, outcome, caller, error=say(error, call.request_id))
        return outcome


def adopt_request_id(call: Call, request_id: str) -> None:
    """Call it as its caller does, unless nobody may be called so."""
    if is_request_id(request_id):
        call.request_id = request_id


def log_fields(call: Call, outcome: Outcome, *, peer: str, error: str) -> dict[str, Any]:
    """What the line of a call in the log may say; most calls have but some of it."""
    return {
        "request_id": call.request_id,
        "trace_id": call.trace.id,
        "caller": call.caller,
        "method": call.method,
        "outcome": outcome.label,
        "code": outcome.code.name,
        "model": call.model,
        "version": call.version,
        "finish_reason": call.finish_reason,
        "prompt_tokens": call.num_prompt_tokens,
        "cached_tokens": call.tokens.num_cached_tokens if call.tokens else 0,
        "generated_tokens": call.num_generated_tokens,
        "queue_ms": _milliseconds(call.queue),
        "first_token_ms": _milliseconds(call.first_token),
        "total_ms": _milliseconds(call.total),
        "peer": peer,
        "error": error,
        **(call.transcript.fields if call.transcript else {}),
        **call.details,
    }


def _metadata(caller: Caller, wanted: str) -> str:
    return next((str(value) for key, value in caller.invocation_metadata() or () if key == wanted), "")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)

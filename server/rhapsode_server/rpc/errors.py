"""From exceptions to gRPC statuses: one table, and the google.rpc details that go with them."""

import random
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    RequestInfo,
    RetryInfo,
)
from grpc import StatusCode
from rhapsode.v1.generation_pb2 import Status

from rhapsode_server import errors
from rhapsode_server.rpc.call import REQUEST_ID_KEY, Call

DOMAIN = "rhapsode"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
# Callers that are refused together do not come back together.
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status that a call ends with, its stable reason, and the label under which it is counted."""

    code: StatusCode
    reason: str
    label: str


OUTCOMES: Mapping[type[errors.ServingError], Outcome] = {
    errors.InvalidRequest: Outcome(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "invalid"),
    errors.NotFound: Outcome(StatusCode.NOT_FOUND, "NOT_FOUND", "invalid"),
    errors.ModelNotFound: Outcome(StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "invalid"),
    errors.VersionNotFound: Outcome(StatusCode.NOT_FOUND, "VERSION_NOT_FOUND", "invalid"),
    errors.AliasNotFound: Outcome(StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND", "invalid"),
    errors.NotPossible: Outcome(StatusCode.FAILED_PRECONDITION, "NOT_POSSIBLE", "invalid"),
    errors.Unauthenticated: Outcome(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "unauthenticated"),
    errors.PermissionDenied: Outcome(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "denied"),
    errors.NotFiniteLogits: Outcome(StatusCode.INTERNAL, "NOT_FINITE_LOGITS", "error"),
    errors.DeadlinePassed: Outcome(StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED", "deadline"),
    errors.TryAgain: Outcome(StatusCode.UNAVAILABLE, "UNAVAILABLE", "unavailable"),
    errors.LimitReached: Outcome(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", "limited"),
    errors.Overloaded: Outcome(StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "overloaded"),
    errors.DeadlineUnreachable: Outcome(StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_UNREACHABLE", "overloaded"),
    errors.Unavailable: Outcome(StatusCode.UNAVAILABLE, "UNAVAILABLE", "unavailable"),
    errors.NothingPublished: Outcome(StatusCode.UNAVAILABLE, "NOTHING_PUBLISHED", "unavailable"),
    errors.Loading: Outcome(StatusCode.UNAVAILABLE, "LOADING", "unavailable"),
    errors.Draining: Outcome(StatusCode.UNAVAILABLE, "DRAINING", "unavailable"),
    errors.Quarantined: Outcome(StatusCode.UNAVAILABLE, "QUARANTINED", "unavailable"),
    errors.WorkerLost: Outcome(StatusCode.UNAVAILABLE, "WORKER_LOST", "unavailable"),
}
BUG = Outcome(StatusCode.INTERNAL, "INTERNAL", "error")
# How calls end that no exception of ours ended.
OK = Outcome(StatusCode.OK, "", "ok")
CANCELLED = Outcome(StatusCode.CANCELLED, "", "cancelled")
EXPIRED = Outcome(StatusCode.DEADLINE_EXCEEDED, "", "deadline")

# What is wrong with these is said in the words of a template or a library, which quote the caller.
_QUOTING_FIELDS = ("messages", "constraint", "response_format", "body")

# Status and details travel in the trailing metadata, for which clients accept 8 KiB by default.
_MAX_MESSAGE_LENGTH = 1000
_MAX_VIOLATIONS = 16
_MAX_DESCRIPTION_LENGTH = 200


def outcome_of(error: Exception) -> Outcome:
    return next((OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES), BUG)


def message_of(error: Exception, request_id: str) -> str:
    """What the caller is told: nothing of what went on inside when it is a bug."""
    if outcome_of(error) is BUG:
        return f"internal error; the server's log has the details under request id {request_id}"
    return _cut(str(error), _MAX_MESSAGE_LENGTH)


def logged_message_of(error: Exception, request_id: str) -> str:
    """The same without anything of what the caller sent."""
    if not isinstance(error, errors.InvalidRequest):
        return message_of(error, request_id)
    return _cut("; ".join(map(_logged, error.violations)), _MAX_MESSAGE_LENGTH)


def trailing_metadata(error: Exception, call: Call) -> tuple[tuple[str, str | bytes], ...]:
    """The request id, a google.rpc.Status with the details, and what gRPC's own retries want to know."""
    status = status_of(error, call.request_id).SerializeToString()
    return (REQUEST_ID_KEY, call.request_id), ("grpc-status-details-bin", status), *_pushback(error, call)


def _pushback(error: Exception, call: Call) -> tuple[tuple[str, str], ...]:
    """When to try again, in milliseconds; -1: not at all, the caller would no longer wait for the answer."""
    if not isinstance(error, errors.TryAgain):
        return ()
    delay = error.retry_after * random.uniform(1, 1 + _JITTER)
    in_time = call.deadline is None or time.monotonic() + delay < call.deadline
    return ((PUSHBACK_KEY, str(round(delay * 1000)) if in_time else "-1"),)


def status_of(error: Exception, request_id: str) -> Status:
    """How a call that failed so ends; the fields, and so the bytes, are those of google.rpc.Status."""
    outcome = outcome_of(error)
    info = ErrorInfo(reason=outcome.reason, domain=DOMAIN)
    details = [_packed(detail) for detail in (info, *_details(error), RequestInfo(request_id=request_id))]
    return Status(code=outcome.code.value[0], message=message_of(error, request_id), details=details)


def _packed(detail: Message) -> Packed:
    packed = Packed()
    packed.Pack(detail)
    return packed


def _details(error: Exception) -> list[Message]:
    match error:
        case errors.InvalidRequest():
            violations = error.violations[:_MAX_VIOLATIONS]
            return [BadRequest(field_violations=[_violation(violation) for violation in violations])]
        case errors.TryAgain():
            delay = Duration()
            delay.FromMilliseconds(round(error.retry_after * 1000))
            return [RetryInfo(retry_delay=delay)]
    return []


def _logged(violation: errors.FieldViolation) -> str:
    quotes = violation.field.split(".")[0] in _QUOTING_FIELDS
    return violation.field if quotes else f"{violation.field}: {violation.description}"


def _violation(violation: errors.FieldViolation) -> Message:
    description = _cut(violation.description, _MAX_DESCRIPTION_LENGTH)
    made: Message = BadRequest.FieldViolation(field=violation.field, description=description)
    return made


def _cut(text: str, length: int) -> str:
    """At most `length` bytes as the wire spells them, which is percent-encoded."""
    head = text[:length]
    sizes = list(accumulate(1 if " " <= character <= "~" else 3 * len(character.encode()) for character in head))
    end = bisect_right(sizes, length)
    return text if end == len(text) else f"{text[:end]} ..."

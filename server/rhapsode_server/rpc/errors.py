"""From exceptions to gRPC statuses: one table, and the google.rpc details that go with them."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from rhapsode_server import errors
from rhapsode_server.rpc.call import REQUEST_ID_KEY


class NotFiniteLogits(errors.ServingError):
    """The model computed NaN or infinities for this prompt; a retry would do so again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status that a call ends with, and the label under which it is counted."""

    code: grpc.StatusCode
    label: str


OUTCOMES: Mapping[type[errors.ServingError], Outcome] = {
    errors.InvalidRequest: Outcome(grpc.StatusCode.INVALID_ARGUMENT, "invalid"),
    errors.NotFound: Outcome(grpc.StatusCode.NOT_FOUND, "invalid"),
    errors.TryAgain: Outcome(grpc.StatusCode.UNAVAILABLE, "unavailable"),
    errors.Overloaded: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
    NotFiniteLogits: Outcome(grpc.StatusCode.INTERNAL, "error"),
}
BUG = Outcome(grpc.StatusCode.INTERNAL, "error")

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


def trailing_metadata(error: Exception, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """The request id, and a google.rpc.Status with the details."""
    status = Status(code=outcome_of(error).code.value[0], message=message_of(error, request_id))
    for detail in (*_details(error), RequestInfo(request_id=request_id)):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return (REQUEST_ID_KEY, request_id), ("grpc-status-details-bin", status.SerializeToString())


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


def _violation(violation: errors.FieldViolation) -> Message:
    description = _cut(violation.description, _MAX_DESCRIPTION_LENGTH)
    made: Message = BadRequest.FieldViolation(field=violation.field, description=description)
    return made


def _cut(text: str, length: int) -> str:
    """At most `length` bytes as the wire spells them, which is percent-encoded."""
    sizes = list(accumulate(1 if " " <= character <= "~" else 3 * len(character.encode()) for character in text))
    end = bisect_right(sizes, length)
    return text if end == len(text) else f"{text[:end]} ..."

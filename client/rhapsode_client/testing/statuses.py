"""Typed error -> gRPC status with its google.rpc details: what the client reads back as the same error."""

from collections.abc import Mapping
from typing import Never

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo  # type: ignore[import-untyped]
from rhapsode.v1.generation_pb2 import Status

from rhapsode_client import errors

CODES: Mapping[type[errors.RhapsodeError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ServerError: grpc.StatusCode.INTERNAL,
}


def status_of(error: errors.RhapsodeError, request_id: str) -> Status:
    """The fields, and so the bytes, are those of google.rpc.Status."""
    details = [_packed(detail) for detail in _details(error, request_id)]
    return Status(code=CODES[type(error)].value[0], message=str(error), details=details)


def abort(error: errors.RhapsodeError, request_id: str, context: grpc.ServicerContext) -> Never:
    """End the call with `error`."""
    status = status_of(error, request_id).SerializeToString()
    context.set_trailing_metadata((("grpc-status-details-bin", status), *_pushback(error, context.time_remaining())))
    context.abort(CODES[type(error)], str(error))


def duration(seconds: float) -> Duration:
    """`seconds` as a message."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def _pushback(error: errors.RhapsodeError, time_left: float | None) -> tuple[tuple[str, str], ...]:
    """What gRPC's own retries obey: when to come back, or below 0 that the deadline leaves no time for it."""
    if not isinstance(error, errors.Retryable) or error.retry_after is None:
        return ()
    in_time = time_left is None or error.retry_after < time_left
    return (("grpc-retry-pushback-ms", str(round(error.retry_after * 1000) if in_time else -1)),)


def _details(error: errors.RhapsodeError, request_id: str) -> list[Message]:
    details: list[Message] = [RequestInfo(request_id=error.request_id or request_id)]
    if isinstance(error, errors.InvalidRequest) and error.violations:
        details.append(BadRequest(field_violations=[violation._asdict() for violation in error.violations]))
    if isinstance(error, errors.Retryable) and error.retry_after is not None:
        details.append(RetryInfo(retry_delay=duration(error.retry_after)))
    return details


def _packed(detail: Message) -> Packed:
    packed = Packed()
    packed.Pack(detail)
    return packed

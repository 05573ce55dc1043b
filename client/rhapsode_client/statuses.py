"""gRPC status -> typed error, with the google.rpc details that travel in the trailing metadata."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from rhapsode.v1 import generation_pb2

from rhapsode_client import errors

ERRORS: Mapping[grpc.StatusCode, type[errors.RhapsodeError]] = {
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNKNOWN: errors.ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.ABORTED: errors.FailedPrecondition,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: errors.ServerError,
    grpc.StatusCode.INTERNAL: errors.ServerError,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DATA_LOSS: errors.ServerError,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
}
"""Every status that is an error."""

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in ERRORS}

MessageT = TypeVar("MessageT", bound=Message)
Metadata = Iterable[tuple[str, str | bytes]]


def error_from(failure: grpc.RpcError) -> errors.RhapsodeError:
    """The typed error of a failed call."""
    metadata = tuple(cast(Metadata, failure.trailing_metadata() or ()))
    status = _status(metadata)
    error = _typed(failure.code(), failure.details(), status)
    error.request_id = error.request_id or _request_id(metadata)
    return error


def error_of(status: generation_pb2.Status) -> errors.RhapsodeError:
    """The typed error of one item of a batch."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _typed(code, status.message, Status.FromString(status.SerializeToString()))


def _typed(code: grpc.StatusCode, message: str | None, status: Status) -> errors.RhapsodeError:
    error = ERRORS[code](message or code.name)
    error.request_id = _detail(status, RequestInfo()).request_id
    if isinstance(error, errors.InvalidRequest):
        error.violations = _violations(_detail(status, BadRequest()))
    if isinstance(error, errors.Retryable):
        error.retry_after = _retry_after(_detail(status, RetryInfo()))
    return error


def _status(metadata: Metadata) -> Status:
    """The details of the failure; empty when there are none, or none that can be read."""
    for key, value in metadata:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                break
    return Status()


def _detail(status: Status, detail: MessageT) -> MessageT:
    """`detail` filled from the status, or left empty when the status has none of its kind."""
    for packed in status.details:
        if packed.Is(detail.DESCRIPTOR):
            with suppress(DecodeError):
                packed.Unpack(detail)
    return detail


def _violations(request: BadRequest) -> tuple[errors.Violation, ...]:
    return tuple(errors.Violation(each.field, each.description) for each in request.field_violations)


def _retry_after(info: RetryInfo) -> float | None:
    delay = info.retry_delay
    return delay.seconds + delay.nanos / 1e9 if info.HasField("retry_delay") else None


def _request_id(metadata: Metadata) -> str:
    return next((str(value) for key, value in metadata if key == "x-request-id"), "")

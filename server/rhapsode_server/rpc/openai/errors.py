"""From exceptions to HTTP: statuses, OpenAI's form of an error, and when to try again."""

import math
from collections.abc import Mapping
from typing import Any

from grpc import StatusCode

from rhapsode_server.errors import InvalidRequest, TryAgain, Unauthenticated
from rhapsode_server.rpc.errors import message_of, outcome_of

# The fields at fault where it is none of the parameters.
BODY = "body"
PATH, METHOD, ORIGIN = "path", "method", "Origin"
TYPE, ENCODING, SIZE, TIME = "Content-Type", "Content-Encoding", "size of the body", "time of the body"

_OF_HTTP: Mapping[str, int] = {
    BODY: 400,
    PATH: 404,
    METHOD: 405,
    ORIGIN: 403,
    TYPE: 415,
    ENCODING: 415,
    SIZE: 413,
    TIME: 408,
}

# OpenAI's clients try 408, 429 and those from 500 on again by themselves.
_STATUSES: Mapping[StatusCode, tuple[int, str]] = {
    StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
    StatusCode.FAILED_PRECONDITION: (400, "invalid_request_error"),
    StatusCode.UNAUTHENTICATED: (401, "authentication_error"),
    StatusCode.PERMISSION_DENIED: (403, "permission_error"),
    StatusCode.NOT_FOUND: (404, "not_found_error"),
    StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    StatusCode.INTERNAL: (500, "server_error"),
    StatusCode.UNAVAILABLE: (503, "server_error"),
    StatusCode.DEADLINE_EXCEEDED: (504, "server_error"),
}


def status_of(error: Exception) -> int:
    if isinstance(error, InvalidRequest) and error.violations[0].field in _OF_HTTP:
        return _OF_HTTP[error.violations[0].field]
    return _STATUSES[outcome_of(error).code][0]


def headers_of(error: Exception) -> Mapping[str, str]:
    match error:
        case TryAgain():
            # Whole seconds are all that the standard knows; OpenAI's clients read the other one first.
            milliseconds = max(1, round(error.retry_after * 1000))
            return {"Retry-After": str(math.ceil(milliseconds / 1000)), "Retry-After-Ms": str(milliseconds)}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
    return {}


def body_of(error: Exception, request_id: str) -> dict[str, Any]:
    """As OpenAI's clients read it; `code` is the reason that gRPC's callers get in ErrorInfo."""
    outcome = outcome_of(error)
    return {
        "error": {
            "message": message_of(error, request_id),
            "type": _STATUSES[outcome.code][1],
            "param": _parameter(error),
            "code": outcome.reason.lower(),
        }
    }


def _parameter(error: Exception) -> str | None:
    if not isinstance(error, InvalidRequest) or error.violations[0].field in _OF_HTTP:
        return None
    return error.violations[0].field

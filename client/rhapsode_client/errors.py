"""What can go wrong, as exceptions.

    RhapsodeError
    +-- InvalidRequest       a field is out of range; `violations` names each
    +-- NotFound             no such model, version, alias or health service
    +-- Retryable            the same request may succeed later; `retry_after` says when
    |   +-- Overloaded       the queue is full
    |   +-- Unavailable      not reachable, loading, draining, or the worker was lost
    +-- DeadlineExceeded     the call's timeout ended
    +-- Cancelled            the call was cancelled, by this client or by the server
    +-- Unauthenticated      no valid credentials
    +-- PermissionDenied     the credentials do not allow this call
    +-- FailedPrecondition   not possible in the server's present state
    +-- ServerError          the server failed, or does not know the call

`statuses` says which gRPC status becomes which.
"""
# ruff: noqa: N818  (named as gRPC names its statuses)

from typing import NamedTuple


class RhapsodeError(Exception):
    """Any failure of a call. `str(error)` is what the server, or gRPC, says about it."""

    request_id: str = ""
    """The server's name for the request, when it gave one: quote it to whoever runs the server."""


class Violation(NamedTuple):
    """One field at fault and what is wrong with it."""

    field: str
    """Path in the request message, for example `sampling.top_p`."""
    description: str


class InvalidRequest(RhapsodeError):
    """The request cannot be answered as it is."""

    violations: tuple[Violation, ...] = ()

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequest":
        """A request refused before it was sent, for one field."""
        error = cls(f"{field}: {description}")
        error.violations = (Violation(field, description),)
        return error


class NotFound(RhapsodeError):
    """No such model, version, alias or health service."""


class Retryable(RhapsodeError):
    """Nothing is wrong with the request; it may succeed later."""

    retry_after: float | None = None
    """Seconds after which the server suggests to try again; None: it did not say."""


class Overloaded(Retryable):
    """The server's queue is full."""


class Unavailable(Retryable):
    """The server is not reachable, loading or draining, or lost the worker.

    A Rhapsode server always says when to try again: `retry_after` is None when no server answered.
    """


class DeadlineExceeded(RhapsodeError):
    """The call's timeout ended first."""


class Cancelled(RhapsodeError):
    """The call was cancelled, by this client or by the server."""


class Unauthenticated(RhapsodeError):
    """The server wants credentials, or other ones."""


class PermissionDenied(RhapsodeError):
    """The credentials do not allow this call."""


class FailedPrecondition(RhapsodeError):
    """Not possible in the server's present state."""


class ServerError(RhapsodeError):
    """The server failed, or does not know the call."""

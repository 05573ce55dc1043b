"""What can go wrong while serving, in one tree. `rpc` maps it to gRPC statuses in one table.

    ServingError
    |-- InvalidRequest      a field of the request is wrong; names each field       INVALID_ARGUMENT
    |-- NotFound            no such model, version or alias                         NOT_FOUND
    `-- TryAgain            the same request may succeed after `retry_after`
        |-- Overloaded      the queue is full                                       RESOURCE_EXHAUSTED
        `-- Unavailable     loading, draining, quarantined or stopped               UNAVAILABLE
            `-- WorkerLost  the engine process ended while the request ran          UNAVAILABLE

Anything else that reaches the wire is a bug: INTERNAL, a fixed text and the request id.
"""
# ruff: noqa: N818 - the names say what happened

from collections.abc import Sequence
from dataclasses import dataclass


class ServingError(Exception):
    """Any failure that a caller can understand; its text is shown to the caller."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request by its path, for example `sampling.top_p`, and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(ServingError):
    """One or more fields are wrong."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        assert violations
        super().__init__("; ".join(f"{violation.field}: {violation.description}" for violation in violations))
        self.violations = tuple(violations)


class NotFound(ServingError):
    """No such model, version or alias."""


class TryAgain(ServingError):
    """A passing condition. `retry_after` in seconds says when to ask again."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(TryAgain):
    """As many requests wait as may."""


class Unavailable(TryAgain):
    """Not served now."""


class WorkerLost(Unavailable):
    """The engine process ended while the request was in it."""

"""What can go wrong while serving, in one tree. `rpc` maps it to gRPC statuses in one table.

    ServingError
    |-- InvalidRequest              a field of the request is wrong; names each field       INVALID_ARGUMENT
    |-- NotFound                    what was asked for is not here                          NOT_FOUND
    |   |-- ModelNotFound           no such model
    |   |-- VersionNotFound         no such version
    |   `-- AliasNotFound           no such alias
    |-- NotPossible                 an operator's action is not possible now                FAILED_PRECONDITION
    |-- Unauthenticated             the caller does not prove who it is                     UNAUTHENTICATED
    |-- PermissionDenied            the caller may not do this                              PERMISSION_DENIED
    |-- NotFiniteLogits             the model computes nothing usable for this prompt       INTERNAL
    |-- DeadlinePassed              the call's deadline came first                          DEADLINE_EXCEEDED
    `-- TryAgain                    the same request may succeed after `retry_after`
        |-- LimitReached            the caller's own limit, of calls in a time or at a time RESOURCE_EXHAUSTED
        |-- Overloaded              a queue is full                                         RESOURCE_EXHAUSTED
        |   `-- DeadlineUnreachable the predicted wait exceeds the deadline
        `-- Unavailable             not served now                                          UNAVAILABLE
            |-- NothingPublished    there is no version to serve yet
            |-- Loading             the version gets ready
            |-- Draining            the server, or the version, ends its streams
            |-- Quarantined         the version was refused
            `-- WorkerLost          the engine process ended while the request ran

Anything else that reaches the wire is a bug: INTERNAL, a fixed text and the request id.

Beside it stands CannotStart: what ends the server before it serves, with exit code 2.
"""
# ruff: noqa: N818 - the names say what happened

from collections.abc import Sequence
from dataclasses import dataclass


class CannotStart(Exception):
    """The server cannot do what its settings ask; the text says which setting, why and what to do."""


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

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequest":
        """One field is wrong."""
        return cls([FieldViolation(field, description)])


class NotFound(ServingError):
    """What was asked for is not here."""


class ModelNotFound(NotFound):
    """No such model."""


class VersionNotFound(NotFound):
    """No such version of the model."""


class AliasNotFound(NotFound):
    """The model has no such alias."""


class NotPossible(ServingError):
    """What an operator asked for is not possible now; the text says why."""


class Unauthenticated(ServingError):
    """The caller does not prove who it is."""


class PermissionDenied(ServingError):
    """The caller is known and may not do this."""


class NotFiniteLogits(ServingError):
    """The model computed NaN or infinities for this prompt; a retry would do so again."""


class DeadlinePassed(ServingError):
    """The call's deadline came before its end."""


class TryAgain(ServingError):
    """A passing condition. `retry_after` in seconds says when to ask again."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitReached(TryAgain):
    """The caller has had what its token allows, for now; others may go on."""


class Overloaded(TryAgain):
    """As many requests or tokens wait as may."""


class DeadlineUnreachable(Overloaded):
    """The request would wait beyond its deadline."""


class Unavailable(TryAgain):
    """Not served now."""


class NothingPublished(Unavailable):
    """The model directory, or the model, has no version to serve yet."""


class Loading(Unavailable):
    """The version gets ready."""


class Draining(Unavailable):
    """The server shuts down, or the version ends its last streams."""


class Quarantined(Unavailable):
    """The version was refused, and no other one serves."""


class WorkerLost(Unavailable):
    """The engine process ended while the request was in it."""

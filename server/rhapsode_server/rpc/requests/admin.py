"""From what an operator asks to a decision, with every default filled in and every field at fault named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import admin_pb2 as pb

from rhapsode_server.errors import FieldViolation
from rhapsode_server.rpc.requests.fields import Violations, raise_if_any, too_many

DEFAULT_TTL = 3600.0
_MAX_VERSIONS = 64
_MAX_TTL_DAYS = 30
_MAX_REASON_CHARACTERS = 1024

Decides = pb.SetTrafficRequest | pb.PromoteRequest | pb.PinRequest | pb.RollbackRequest
"""Requests whose effect ends by itself, and has a reason."""


class NamesVersion(Protocol):
    version: int


class Expires(Protocol):
    @property
    def ttl(self) -> Duration: ...

    def HasField(self, name: str) -> bool: ...  # noqa: N802


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """For how many seconds a decision holds, and why it was made."""

    ttl: float
    reason: str


def terms(request: Decides) -> Terms:
    """Raises InvalidRequest with the fields at fault, also those that say what was decided."""
    raise_if_any(_decision_violations(request))
    return Terms(ttl=_ttl(request), reason=request.reason)


def load_ttl(request: pb.LoadVersionRequest) -> float:
    """For how many seconds the version is wanted. Raises InvalidRequest with the fields at fault."""
    raise_if_any((*_version_violations(request), *_ttl_violations(request)))
    return _ttl(request)


def check_unload(request: pb.UnloadVersionRequest) -> None:
    """Raises InvalidRequest if no version is named."""
    raise_if_any(_version_violations(request))


def _decision_violations(request: Decides) -> Violations:
    if isinstance(request, pb.SetTrafficRequest):
        yield from _weights_violations(request.weights)
    elif not isinstance(request, pb.RollbackRequest):
        yield from _version_violations(request)
    yield from _ttl_violations(request)
    if len(request.reason) > _MAX_REASON_CHARACTERS:
        yield FieldViolation("reason", f"at most {_MAX_REASON_CHARACTERS} characters, not {len(request.reason)}")


def _weights_violations(weights: Mapping[int, int]) -> Violations:
    yield from too_many("weights", len(weights), _MAX_VERSIONS, " versions")
    if not any(weights.values()):
        yield FieldViolation("weights", "give at least one version a weight above 0")
    if 0 in weights:
        yield FieldViolation("weights[0]", "there is no version 0; the first one is 1")


def _version_violations(request: NamesVersion) -> Violations:
    if request.version == 0:
        yield FieldViolation("version", "is missing; name the version")


def _ttl_violations(request: Expires) -> Violations:
    if not 0 < (ttl := _ttl(request)) <= _MAX_TTL_DAYS * 86_400:
        yield FieldViolation("ttl", f"must be above 0 and at most {_MAX_TTL_DAYS} days, not {ttl / 86_400:g} days")


def _ttl(request: Expires) -> float:
    return request.ttl.seconds + request.ttl.nanos / 1e9 if request.HasField("ttl") else DEFAULT_TTL

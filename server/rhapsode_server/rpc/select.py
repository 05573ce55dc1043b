"""Which version answers a request."""

from typing import Protocol

from rhapsode_server.models.served import Models, ServedVersion
from rhapsode_server.rpc.call import Call


class Selecting(Protocol):
    """A request with the fields that select a version."""

    model: str
    version: int
    alias: str

    def WhichOneof(self, oneof_group: str) -> str | None: ...  # noqa: N802


def resolve(models: Models, request: Selecting, call: Call) -> ServedVersion:
    """The version asked for, noted in `call`. Raises InvalidRequest, NotFound, Unavailable."""
    selector = request.WhichOneof("version_selector")
    version = models.resolve(
        request.model,
        version=request.version if selector == "version" else None,
        alias=request.alias if selector == "alias" else None,
        key=call.traffic_key or call.request_id,
    )
    call.answered_by(version)
    return version

"""The client of the AdminService, for blocking code."""

from collections.abc import Mapping
from typing import Unpack

from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import admin_pb2 as pb

from rhapsode_client.admin import methods
from rhapsode_client.admin.results import DrainStatus, ModelStatus, ServerStatus
from rhapsode_client.blocking import BlockingClient
from rhapsode_client.connection import Connection
from rhapsode_client.credentials import CredentialOptions
from rhapsode_client.requests import duration, filled
from rhapsode_client.settings import ConfigPath


class AdminClient(BlockingClient):
    """A connection to the AdminService of one server. Threads may share it.

    `address` is `host:port`, by default 127.0.0.1:50052, else as of a `Client` (the environment's variable is
    RHAPSODE_ADMIN_ADDRESS, the file's setting `admin_address`). Calls are not tried again. Every call raises
    `RhapsodeError`.

    What is decided here holds for this server alone and for `ttl` seconds, None: one hour. `model` may be empty where
    the server serves one, or has a default. Decisions return the model as it is right afterwards: traffic moves once
    the versions that it goes to are loaded and proven.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = None,
        config: ConfigPath = None,
        **credentials: Unpack[CredentialOptions],
    ) -> None:
        super().__init__(Connection.resolve(address, timeout, 0, config, credentials, "admin_address"))

    def status(self, *, timeout: float | None = None) -> ServerStatus:
        """The server and all its models."""
        return self._call(methods.GET_STATUS, pb.GetStatusRequest(), timeout)

    def set_traffic(
        self,
        weights: Mapping[int, int],
        model: str = "",
        *,
        ttl: float | None = None,
        reason: str = "",
        timeout: float | None = None,
    ) -> ModelStatus:
        """Split requests in proportion to `weights`, by version, whatever the fleet decides."""
        request = filled(pb.SetTrafficRequest(), model=model, weights=weights, ttl=_ttl(ttl), reason=reason)
        return self._call(methods.SET_TRAFFIC, request, timeout)

    def clear_traffic(self, model: str = "", *, timeout: float | None = None) -> ModelStatus:
        """The fleet's decision holds again."""
        return self._call(methods.CLEAR_TRAFFIC, filled(pb.ClearTrafficRequest(), model=model), timeout)

    def promote(
        self, version: int, model: str = "", *, ttl: float | None = None, reason: str = "", timeout: float | None = None
    ) -> ModelStatus:
        """Serve one version until the fleet decides anew."""
        request = filled(pb.PromoteRequest(), model=model, version=version, ttl=_ttl(ttl), reason=reason)
        return self._call(methods.PROMOTE, request, timeout)

    def pin(
        self, version: int, model: str = "", *, ttl: float | None = None, reason: str = "", timeout: float | None = None
    ) -> ModelStatus:
        """Serve one version whatever the fleet decides."""
        request = filled(pb.PinRequest(), model=model, version=version, ttl=_ttl(ttl), reason=reason)
        return self._call(methods.PIN, request, timeout)

    def rollback(
        self, model: str = "", *, ttl: float | None = None, reason: str = "", timeout: float | None = None
    ) -> ModelStatus:
        """Serve the version before, until the fleet decides anew."""
        request = filled(pb.RollbackRequest(), model=model, ttl=_ttl(ttl), reason=reason)
        return self._call(methods.ROLLBACK, request, timeout)

    def load(
        self, version: int, model: str = "", *, ttl: float | None = None, timeout: float | None = None
    ) -> ModelStatus:
        """Load and prove a version beside those that serve; returns when it is ready. It stays so for `ttl`."""
        request = filled(pb.LoadVersionRequest(), model=model, version=version, ttl=_ttl(ttl))
        return self._call(methods.LOAD_VERSION, request, timeout)

    def unload(self, version: int, model: str = "", *, timeout: float | None = None) -> ModelStatus:
        """End a version that has no traffic; returns when it begins to drain."""
        request = filled(pb.UnloadVersionRequest(), model=model, version=version)
        return self._call(methods.UNLOAD_VERSION, request, timeout)

    def drain(self, *, timeout: float | None = None) -> DrainStatus:
        """Refuse new calls, let open ones end, health NOT_SERVING."""
        return self._call(methods.DRAIN, pb.DrainRequest(), timeout)

    def resume(self, *, timeout: float | None = None) -> DrainStatus:
        """Undo `drain`."""
        return self._call(methods.DRAIN, pb.DrainRequest(resume=True), timeout)


def _ttl(seconds: float | None) -> Duration | None:
    return None if seconds is None else duration("ttl", seconds)

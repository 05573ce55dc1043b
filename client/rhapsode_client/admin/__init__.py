"""What operators do to one server: move its traffic, load and unload versions, take it out of rotation.

    from rhapsode_client.admin import AdminClient

    with AdminClient("127.0.0.1:50052") as admin:
        admin.set_traffic({12: 90, 13: 10}, ttl=7200, reason="try 13")
        print(admin.status().models[0].model.traffic)

Failures are those of `rhapsode_client.errors`; `FailedPrecondition` says why an action is not possible now.
"""

from rhapsode_client.admin.client import AdminClient
from rhapsode_client.admin.results import (
    DrainStatus,
    ModelStatus,
    Replica,
    ServerStatus,
    TrafficOverride,
    TrafficSource,
)

__all__ = [
    "AdminClient",
    "DrainStatus",
    "ModelStatus",
    "Replica",
    "ServerStatus",
    "TrafficOverride",
    "TrafficSource",
]

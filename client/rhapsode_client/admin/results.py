"""What the AdminService returns: plain, frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rhapsode_client.results import Model


class TrafficSource(StrEnum):
    """Who decided how requests are split."""

    NOTHING = "nothing"
    """Nothing is served."""
    CHAMPION = "champion"
    PINNED = "pinned"
    WEIGHTS = "weights"
    OVERRIDE = "override"
    """An operator, for this server alone."""
    FALLBACK = "fallback"
    """What was decided is quarantined here or not ready yet: the version before goes on."""
    UNKNOWN = "unknown"
    """A source that this client does not know: the server is newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOverride:
    """An operator's decision for one server."""

    weights: Mapping[int, int]
    """Requests are split in proportion to these, by version."""
    until_fleet_decides: bool
    """Whether it ends when the fleet decides anew."""
    expires_at: datetime
    """In UTC, at the latest."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A process that runs a version."""

    version: int
    process_id: int
    """0 while it is being started again."""
    device: str
    ready: bool
    waiting: int
    """Requests that wait in it."""
    running: int
    restarts: int
    """How often it was started again after a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model as an operator sees it."""

    model: Model
    traffic_source: TrafficSource
    override: TrafficOverride | None
    """The one in force."""
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """Everything that a server knows of itself."""

    server: str
    """How it signs its verdicts."""
    release: str
    started_at: datetime
    """In UTC."""
    draining: bool
    """Whether it refuses new calls."""
    open_calls: int
    standby_ready: bool
    """Whether a pre-imported process waits to become the next worker."""
    models: tuple[ModelStatus, ...]
    not_ready_because: str = ""
    """Why health is NOT_SERVING, for example `poems 1 is loading`; empty while it is SERVING."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainStatus:
    """Whether new calls are refused, and how many are still open."""

    draining: bool
    open_calls: int

"""Response messages -> results."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from rhapsode.v1 import admin_pb2

from rhapsode_client import convert
from rhapsode_client.admin.results import (
    DrainStatus,
    ModelStatus,
    Replica,
    ServerStatus,
    TrafficOverride,
    TrafficSource,
)

TRAFFIC_SOURCES: Mapping[int, TrafficSource] = {
    number: TrafficSource.NOTHING if number == 0 else TrafficSource(name.removeprefix("TRAFFIC_SOURCE_").lower())
    for name, number in admin_pb2.TrafficSource.items()
}


class ShowsModel(Protocol):
    """The answer to a decision."""

    @property
    def status(self) -> admin_pb2.ModelAdminStatus: ...


def server_status(message: admin_pb2.GetStatusResponse) -> ServerStatus:
    return ServerStatus(
        server=message.server,
        release=message.release,
        started_at=_utc(message.started_at),
        draining=message.draining,
        open_calls=message.open_calls,
        standby_ready=message.standby_ready,
        models=tuple(_model_status(each) for each in message.models),
        not_ready_because=message.not_ready_because,
    )


def decided(message: ShowsModel) -> ModelStatus:
    return _model_status(message.status)


def drain_status(message: admin_pb2.DrainResponse) -> DrainStatus:
    return DrainStatus(draining=message.draining, open_calls=message.open_calls)


def _model_status(message: admin_pb2.ModelAdminStatus) -> ModelStatus:
    return ModelStatus(
        model=convert.served_model(message.model),
        traffic_source=TRAFFIC_SOURCES.get(message.traffic_source, TrafficSource.UNKNOWN),
        override=_override(message.override) if message.HasField("override") else None,
        replicas=tuple(_replica(each) for each in message.replicas),
    )


def _override(message: admin_pb2.TrafficOverride) -> TrafficOverride:
    return TrafficOverride(
        weights=dict(sorted(message.weights.items())),
        until_fleet_decides=message.until_fleet_decides,
        expires_at=_utc(message.expires_at),
        reason=message.reason,
    )


def _replica(message: admin_pb2.Replica) -> Replica:
    return Replica(
        version=message.version,
        process_id=message.process_id,
        device=message.device,
        ready=message.ready,
        waiting=message.waiting,
        running=message.running,
        restarts=message.restarts,
    )


def _utc(moment: Timestamp) -> datetime:
    return moment.ToDatetime(UTC)

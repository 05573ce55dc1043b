"""What operators ask, through the AdminClient."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import admin_pb2 as pb
from rhapsode_client import FailedPrecondition, InvalidRequest, Unavailable
from rhapsode_client.admin import AdminClient, DrainStatus, Replica, TrafficOverride, TrafficSource, convert

OVERRIDE = TrafficOverride(
    weights={2: 90, 3: 10},
    until_fleet_decides=True,
    expires_at=datetime(2027, 1, 15, 8, 0, 0, 500_000, tzinfo=UTC),
    reason="try [red]3",
)
REPLICAS = (
    Replica(version=2, process_id=4711, device="cpu", ready=True, waiting=1, running=4, restarts=0),
    Replica(version=2, process_id=0, device="cpu", ready=False, waiting=1, running=4, restarts=2),
)


@pytest.fixture
def admin(server):
    with AdminClient(server.address) as client:
        yield client


def test_the_status_has_all_of_it(admin):
    status = admin.status()
    assert (status.server, status.release, status.started_at.year) == ("node-7-50051", "0.1.0", 2023)
    assert (status.draining, status.open_calls, status.standby_ready) == (True, 3, True)
    assert status.not_ready_because == "the server is drained"
    [poems] = status.models
    assert poems.model.name == "poems"
    assert poems.traffic_source is TrafficSource.OVERRIDE
    assert poems.override == OVERRIDE
    assert poems.replicas == REPLICAS


@pytest.mark.parametrize(
    ("method", "arguments", "options", "message"),
    [
        (
            "set_traffic",
            ({12: 90, 13: 10}, "poems"),
            {"ttl": 1.5, "reason": "try 13"},
            pb.SetTrafficRequest(
                model="poems", weights={12: 90, 13: 10}, ttl=Duration(seconds=1, nanos=500_000_000), reason="try 13"
            ),
        ),
        ("promote", (13,), {"ttl": 0}, pb.PromoteRequest(version=13, ttl=Duration())),
        ("pin", (13, "poems"), {"reason": "why"}, pb.PinRequest(model="poems", version=13, reason="why")),
        ("rollback", (), {"ttl": 60}, pb.RollbackRequest(ttl=Duration(seconds=60))),
        ("clear_traffic", ("poems",), {}, pb.ClearTrafficRequest(model="poems")),
        ("load", (13,), {"ttl": 60}, pb.LoadVersionRequest(version=13, ttl=Duration(seconds=60))),
        ("unload", (13, "poems"), {}, pb.UnloadVersionRequest(model="poems", version=13)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_decision_reaches_the_server(admin, server, method: str, arguments: Any, options: Any, message: Any):
    status = getattr(admin, method)(*arguments, **options, timeout=5)
    assert server.requests == [message]
    assert status == admin.status().models[0]
    assert 0 < server.time_left[0] < 6


def test_drain_and_resume(admin, server):
    assert admin.drain() == admin.resume() == DrainStatus(draining=True, open_calls=3)
    assert server.requests == [pb.DrainRequest(), pb.DrainRequest(resume=True)]


@pytest.mark.parametrize("ttl", [float("nan"), float("inf"), 1e300, "an hour"])
def test_a_ttl_that_is_no_number_of_seconds(admin, server, ttl):
    with pytest.raises(InvalidRequest, match="ttl: must be a number of seconds"):
        admin.promote(13, ttl=ttl)
    assert not server.requests


@pytest.mark.parametrize(("version", "weights"), [(-1, {-1: 1}), (2**64, {1: 2**32}), ("new", {"new": 1})])
def test_what_a_field_cannot_hold_is_named(admin, server, version, weights):
    with pytest.raises(InvalidRequest, match=r"^version: "):
        admin.pin(version)
    with pytest.raises(InvalidRequest, match=r"^weights: "):
        admin.set_traffic(weights)
    assert not server.requests


def test_what_is_not_possible_says_why(admin, server, failure):
    code = grpc.StatusCode.FAILED_PRECONDITION
    server.scripts["Promote"] = [failure(code=code, message="version 13 is quarantined: hash_mismatch")]
    with pytest.raises(FailedPrecondition, match="version 13 is quarantined: hash_mismatch"):
        admin.promote(13)


def test_it_has_an_address_of_its_own(server, free_address, monkeypatch):
    monkeypatch.setenv("RHAPSODE_ADDRESS", server.address)
    assert AdminClient().address == "127.0.0.1:50052"
    monkeypatch.setenv("RHAPSODE_ADMIN_ADDRESS", free_address)
    with AdminClient() as client, pytest.raises(Unavailable):
        client.status()


def test_the_sources_are_those_of_the_wire():
    assert set(convert.TRAFFIC_SOURCES.values()) == set(TrafficSource) - {TrafficSource.UNKNOWN}
    newer = pb.GetStatusResponse(models=[pb.ModelAdminStatus(traffic_source=99)])
    assert convert.server_status(newer).models[0].traffic_source == "unknown"


def test_no_override_is_none(admin, server):
    server.scripts["GetStatus"] = [pb.GetStatusResponse(models=[pb.ModelAdminStatus()])]
    [model] = admin.status().models
    assert model.override is None
    assert model.traffic_source is TrafficSource.NOTHING


def test_results_are_values(admin):
    with pytest.raises(dataclasses.FrozenInstanceError):
        admin.status().draining = False

"""AdminService over the wire: what reaches the models, what is refused, what the log and the status say."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import admin_pb2 as pb
from rhapsode.v1 import models_pb2
from rhapsode.v1.admin_pb2_grpc import AdminServiceStub
from rhapsode_client import AsyncClient, errors
from rhapsode_client.errors import Unavailable
from rhapsode_client.statuses import error_from
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.errors import InvalidRequest, NotPossible
from rhapsode_server.identity import server_name
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import (
    EvaluationSummary,
    ModelStatus,
    ReplicaStatus,
    TrafficOverride,
    TrafficSource,
    VersionState,
    VersionStatus,
)
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.requests import admin as requests
from rhapsode_server.rpc.server import ADMIN_SERVICE, Server
from support.fake_models import FakeEngine, FakeModels, status_of

MONTH = 30 * 86_400


@pytest.fixture
async def admin_channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    assert server.admin_address is not None
    async with grpc.aio.insecure_channel(server.admin_address) as channel:
        yield channel


@pytest.fixture
def admin(admin_channel: grpc.aio.Channel) -> AdminServiceStub:
    return AdminServiceStub(admin_channel)


@pytest.mark.parametrize(
    ("method", "request_message", "decision"),
    [
        (
            "SetTraffic",
            pb.SetTrafficRequest(
                model="poems", weights={12: 90, 13: 10, 14: 0}, ttl=Duration(seconds=90), reason="a try"
            ),
            ("set_traffic", {12: 90, 13: 10, 14: 0}, 90.0, "a try", True),
        ),
        ("Promote", pb.PromoteRequest(version=13), ("set_traffic", {13: 1}, 3600.0, "", False)),
        ("Pin", pb.PinRequest(version=12, ttl=Duration(nanos=1)), ("set_traffic", {12: 1}, 1e-9, "", True)),
        ("Rollback", pb.RollbackRequest(reason="bad rhymes"), ("rollback", 3600.0, "bad rhymes")),
        ("ClearTraffic", pb.ClearTrafficRequest(model="poems"), ("clear_traffic",)),
        (
            "LoadVersion",
            pb.LoadVersionRequest(version=13, ttl=Duration(seconds=MONTH)),
            ("load_version", 13, float(MONTH)),
        ),
        ("UnloadVersion", pb.UnloadVersionRequest(version=13), ("unload_version", 13)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_decision_reaches_the_models_and_the_answer_shows_them(
    admin: AdminServiceStub, models: FakeModels, metrics: Metrics, method: str, request_message: Any, decision: Any
) -> None:
    answer = await getattr(admin, method)(request_message)
    assert models.decided == [decision]
    assert answer.status.model.name == "poems"
    assert answer.status.model.versions[0].state == models_pb2.VERSION_STATE_SERVING
    assert metrics.registry.get_sample_value("rhapsode_calls_total", {"method": method, "outcome": "ok"}) == 1


@pytest.mark.parametrize(
    ("method", "request_message", "fields"),
    [
        ("SetTraffic", pb.SetTrafficRequest(), ["weights"]),
        ("SetTraffic", pb.SetTrafficRequest(weights={12: 0, 13: 0}), ["weights"]),
        ("SetTraffic", pb.SetTrafficRequest(weights={0: 1}), ["weights[0]"]),
        ("SetTraffic", pb.SetTrafficRequest(weights=dict.fromkeys(range(1, 66), 1)), ["weights"]),
        ("SetTraffic", pb.SetTrafficRequest(weights={0: 0}, ttl=Duration()), ["weights", "weights[0]", "ttl"]),
        ("Promote", pb.PromoteRequest(ttl=Duration(seconds=-1), reason="x" * 1025), ["version", "ttl", "reason"]),
        ("Pin", pb.PinRequest(version=1, ttl=Duration(seconds=MONTH, nanos=1000)), ["ttl"]),
        ("Rollback", pb.RollbackRequest(reason="x" * 1025), ["reason"]),
        ("LoadVersion", pb.LoadVersionRequest(ttl=Duration(seconds=2**62)), ["version", "ttl"]),
        ("UnloadVersion", pb.UnloadVersionRequest(), ["version"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_fields_at_fault_are_named(
    admin: AdminServiceStub, models: FakeModels, method: str, request_message: Any, fields: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(admin, method)(request_message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = error_from(caught.value)
    assert isinstance(error, errors.InvalidRequest)
    assert [violation.field for violation in error.violations] == fields
    assert not models.decided


@given(
    seconds=st.integers(-(2**63), 2**63 - 1) | st.integers(-2, MONTH + 2),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
def test_a_ttl_is_above_nothing_and_at_most_a_month(seconds: int, nanos: int) -> None:
    request = pb.LoadVersionRequest(version=1, ttl=Duration(seconds=seconds, nanos=nanos))
    if 0 < seconds + nanos / 1e9 <= MONTH:
        assert requests.load_ttl(request) == seconds + nanos / 1e9
    else:
        with pytest.raises(InvalidRequest, match=r"^ttl: must be above 0"):
            requests.load_ttl(request)


async def test_the_log_says_what_was_decided_and_why(admin: AdminServiceStub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rhapsode.rpc")
    await admin.SetTraffic(pb.SetTrafficRequest(weights={13: 10, 12: 90}, reason="a try\nINFO forged"))
    [record] = caplog.records
    fields: dict[str, Any] = vars(record)["fields"]
    expected = {"method": "SetTraffic", "outcome": "ok", "model": "poems", "weights": "12=90,13=10", "ttl_s": 3600.0}
    assert expected.items() <= fields.items()
    assert fields["reason"] == "a try\nINFO forged", "the formatters escape it"
    assert "127.0.0.1" in fields["peer"]


async def test_what_is_not_possible_is_a_failed_precondition(admin: AdminServiceStub, models: FakeModels) -> None:
    models.failure = NotPossible("version 13 of poems is quarantined: hash_mismatch")
    with pytest.raises(grpc.aio.AioRpcError, match="version 13 of poems is quarantined: hash_mismatch") as caught:
        await admin.Promote(pb.PromoteRequest(version=13))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    models.failure = None
    with pytest.raises(grpc.aio.AioRpcError, match="no model 'odes'") as caught:
        await admin.ClearTraffic(pb.ClearTrafficRequest(model="odes"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_status_shows_all_there_is(admin: AdminServiceStub, models: FakeModels, server: Server) -> None:
    models.standby_ready = True
    models.known = [ODES]
    status = await admin.GetStatus(pb.GetStatusRequest())
    assert status.not_ready_because == "waiting for the first version to be published", "nobody has told the health"
    assert (status.release, status.draining, status.open_calls, status.standby_ready) == ("0.1.0", False, 0, True)
    assert status.started_at.seconds > 1_700_000_000
    [odes] = status.models
    assert odes.traffic_source == pb.TRAFFIC_SOURCE_OVERRIDE
    assert dict(odes.model.traffic) == {1: 90, 2: 10}
    assert dict(odes.override.weights) == {1: 9, 2: 1}
    assert (odes.override.reason, odes.override.until_fleet_decides) == ("a try", True)
    assert odes.override.expires_at.ToNanoseconds() == 1_800_000_000_500_000_000
    assert [(each.version, each.process_id, each.ready) for each in odes.replicas] == [(1, 11, True), (1, 0, False)]
    assert (odes.replicas[0].waiting, odes.replicas[0].running, odes.replicas[1].restarts) == (4, 8, 2)
    evaluation = odes.model.versions[0].evaluation
    assert (evaluation.bits_per_byte, evaluation.accepted) == (1.25, False)
    assert not evaluation.HasField("perplexity")
    assert not odes.model.versions[1].HasField("evaluation")


@pytest.mark.parametrize("source", list(TrafficSource))
def test_every_source_of_traffic_has_its_message(source: TrafficSource) -> None:
    status = messages.model_admin(ModelStatus(name="odes", source=source))
    assert (status.traffic_source == pb.TRAFFIC_SOURCE_UNSPECIFIED) is (source is TrafficSource.NOTHING)
    assert not status.HasField("override")


async def test_a_drained_server_ends_its_streams_and_comes_back(
    admin: AdminServiceStub, client: AsyncClient, engine: FakeEngine, health: HealthService
) -> None:
    health.update([status_of("poems", VersionState.SERVING)])
    stream = client.stream("Sing")
    (begun := await engine.arrival()).says("O ")
    assert (await anext(stream)).text == "O "
    answer = await admin.Drain(pb.DrainRequest())
    assert (answer.draining, answer.open_calls) == (True, 1)
    with pytest.raises(Unavailable, match="the server is drained") as caught:
        await client.generate("Sing")
    assert caught.value.retry_after == 1.0
    assert await client.health() == "NOT_SERVING"
    status = await admin.GetStatus(pb.GetStatusRequest())
    assert (status.draining, status.open_calls) == (True, 1)
    begun.says("goddess", FinishReason.LENGTH)
    assert (await stream.result()).text == "O goddess"
    answer = await admin.Drain(pb.DrainRequest(resume=True))
    assert not answer.draining
    assert await client.health() == "SERVING"
    engine.will_say("sea")
    assert (await client.generate("Sing")).text == "sea"


async def test_a_shutdown_cannot_be_undone(admin: AdminServiceStub, client: AsyncClient, server: Server) -> None:
    server.rotation.begin_shutdown()
    with pytest.raises(grpc.aio.AioRpcError, match="the server is shutting down") as caught:
        await admin.Drain(pb.DrainRequest(resume=True))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await admin.Drain(pb.DrainRequest())
    server.rotation.refuse_new_calls()
    with pytest.raises(Unavailable, match="shutting down"):
        await client.generate("Sing")


async def test_callers_do_not_reach_it(channel: grpc.aio.Channel, admin_channel: grpc.aio.Channel) -> None:
    for wrong, path in ((channel, f"/{ADMIN_SERVICE}/Drain"), (admin_channel, "/rhapsode.v1.ModelService/GetModel")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wrong.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_and_reflection_are_there_too(admin_channel: grpc.aio.Channel, health: HealthService) -> None:
    health.update([status_of("poems", VersionState.SERVING)])
    answer = await HealthStub(admin_channel).Check(HealthCheckRequest(service="model/poems"))
    assert answer.status == HealthCheckResponse.SERVING
    asked = iter([ServerReflectionRequest(list_services="")])
    listed = await ServerReflectionStub(admin_channel).ServerReflectionInfo(asked).read()
    names = {service.name for service in listed.list_services_response.service}
    assert names == {ADMIN_SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_an_operator_who_waits_holds_no_shutdown_up(
    admin: AdminServiceStub, models: FakeModels, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def load_version(model: str, version: int, *, ttl: float) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeModels, "load_version", staticmethod(load_version))
    call = asyncio.ensure_future(admin.LoadVersion(pb.LoadVersionRequest(version=13)))
    await begun.wait()
    server.rotation.begin_shutdown()
    server.rotation.refuse_new_calls()
    async with asyncio.timeout(1):
        await server.rotation.calls_finished()
    await server.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_the_status_has_the_name_that_signs(admin: AdminServiceStub, config: Any) -> None:
    assert (await admin.GetStatus(pb.GetStatusRequest())).server == server_name(config)


ODES = ModelStatus(
    name="odes",
    aliases={"champion": 1},
    traffic={1: 90, 2: 10},
    source=TrafficSource.OVERRIDE,
    override=TrafficOverride(weights={1: 9, 2: 1}, expires_at=1_800_000_000.5, reason="a try", based_on={1: 100}),
    versions=(
        VersionStatus(
            version=1,
            state=VersionState.SERVING,
            evaluation=EvaluationSummary(bits_per_byte=1.25, accepted=False),
            replicas=(
                ReplicaStatus(process_id=11, device="cpu", ready=True, waiting=4, running=8),
                ReplicaStatus(process_id=0, device="cpu", ready=False, restarts=2),
            ),
        ),
        VersionStatus(version=2, state=VersionState.LOADING),
    ),
)

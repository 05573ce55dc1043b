"""Assembly: models, reflection, unknown methods, addresses, sizes."""

from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from rhapsode_client import AsyncClient
from rhapsode_client.errors import InvalidRequest
from rhapsode_client.results import VersionState
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.models import served
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import SERVICES, CannotListen, Server
from support.fake_models import FakeEngine, FakeModels, status_of


async def test_models_are_listed_with_what_is_known_of_them(client: AsyncClient) -> None:
    [model] = await client.models()
    assert model == await client.model("poems") == await client.model("")
    [version] = model.versions
    assert (model.name, model.aliases) == ("poems", {"champion": 3})
    assert (version.version, version.state, version.dtype, version.device) == (
        3,
        VersionState.SERVING,
        "float32",
        "cpu",
    )
    assert version.parameter_count == 124
    assert version.limits is not None
    assert (version.limits.context_length, version.limits.max_queued_requests) == (64, 4)


@pytest.mark.parametrize("state", list(served.VersionState))
def test_every_state_has_its_message(state: served.VersionState) -> None:
    [version] = messages.model(status_of("poems", state)).versions
    assert version.state != 0
    assert not version.HasField("limits")


async def reflect(channel: grpc.aio.Channel, request: ServerReflectionRequest) -> ServerReflectionResponse:
    call = ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    return await call.read()


async def test_reflection_lists_the_services_and_describes_them(channel: grpc.aio.Channel) -> None:
    answer = await reflect(channel, ServerReflectionRequest(list_services=""))
    names = {service.name for service in answer.list_services_response.service}
    assert names == {
        "rhapsode.v1.GenerationService",
        "rhapsode.v1.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    symbol = ServerReflectionRequest(file_containing_symbol="rhapsode.v1.GenerationService")
    answer = await reflect(channel, symbol)
    files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
    assert "rhapsode/v1/generation.proto" in {file.name for file in files}


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for path in ("/rhapsode.v1.GenerationService/Sing", "/other.Service/Method"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_prompt_of_a_megabyte_is_refused_by_name_and_leaves_the_server_well(
    client: AsyncClient, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    with pytest.raises(InvalidRequest, match=r"prompt: has at least \d+ tokens; the model's context has 64"):
        await client.generate("x" * 2**20)
    assert (await client.generate("Sing")).text == "sea"


def make_server(address: str, health_port: int | None = None) -> Server:
    config = ServerConfig(models=Path("models"), address=address, admin_address=None, health_port=health_port)
    return Server(config, FakeModels(), Metrics(), HealthService(SERVICES))


async def test_an_address_in_use_is_an_error_that_names_the_flag(server: Server) -> None:
    second = make_server(server.address)
    with pytest.raises(CannotListen, match=f"--address: cannot listen on {server.address}: it is in use"):
        await second.start()
    await second.stop()
    assert server.health_address is not None
    third = make_server("127.0.0.1:0", int(server.health_address.rpartition(":")[2]))
    with pytest.raises(CannotListen, match=r"--health-port: cannot listen on 127\.0\.0\.1:"):
        await third.start()
    await third.stop()


async def test_a_unix_socket_of_a_live_server_is_not_taken_over(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    first = make_server(address)
    await first.start()
    with pytest.raises(CannotListen, match="another server does"):
        await make_server(address).start()
    async with AsyncClient(address) as client:
        assert await client.health("liveness") == "SERVING"
    await first.stop()


async def test_a_unix_socket(tmp_path: Path) -> None:
    server = make_server(f"unix:{tmp_path}/socket")
    server.rotation.refuse_new_calls()
    await server.start()
    assert server.address == f"unix:{tmp_path}/socket"
    async with AsyncClient(server.address) as client:
        assert [model.name for model in await client.models()] == ["poems"]
    await server.stop()

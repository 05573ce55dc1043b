"""A client that knows the address and nothing else: everything it uses comes from server reflection."""

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from .conftest import Serving

SERVICE = "rhapsode.v1.GenerationService"


def ask(channel: grpc.Channel, **request: str) -> Any:
    [answer] = ServerReflectionStub(channel).ServerReflectionInfo(
        iter([ServerReflectionRequest(**request)]), timeout=10
    )
    return answer


def pool_of(channel: grpc.Channel, symbol: str) -> descriptor_pool.DescriptorPool:
    """A pool of its own, filled from the server: the generated modules play no part."""
    pool, added = descriptor_pool.DescriptorPool(), set[str]()

    def add(file: descriptor_pb2.FileDescriptorProto) -> None:
        for needed in file.dependency:
            if needed not in added:
                for content in ask(channel, file_by_filename=needed).file_descriptor_response.file_descriptor_proto:
                    add(descriptor_pb2.FileDescriptorProto.FromString(content))
        if file.name not in added:
            added.add(file.name)
            pool.Add(file)

    for content in ask(channel, file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto:
        add(descriptor_pb2.FileDescriptorProto.FromString(content))
    return pool


def test_a_client_from_reflection_alone_streams(serving: Serving) -> None:
    with grpc.insecure_channel(serving.address) as channel:
        services = {each.name for each in ask(channel, list_services="").list_services_response.service}
        assert services >= {SERVICE, "rhapsode.v1.ModelService", "grpc.health.v1.Health"}
        method = pool_of(channel, SERVICE).FindServiceByName(SERVICE).methods_by_name["GenerateStream"]
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        generate_stream = channel.unary_stream(
            f"/{SERVICE}/GenerateStream",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        message = request(
            model="llama", prompt="the sea", sampling={"temperature": 0.5}, stopping={"max_new_tokens": 12}
        )
        events = list(generate_stream(message, timeout=30))
    assert [event.WhichOneof("event") for event in events][:1] == ["started"]
    assert events[0].started.model == "llama"
    assert "".join(event.delta.text for event in events)
    assert events[-1].finished.usage.completion_tokens in range(1, 13)

"""The words under which calls are counted, and what is counted under none."""

import grpc
import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.limits import REQUEST_LIMITS
from rhapsode_server.rpc.counted import METHODS, OUTCOME_LABELS
from rhapsode_server.rpc.server import Server


def test_the_words() -> None:
    assert {"Generate", "GenerateStream", "GenerateBatch", "Score", "Tokenize", "ListModels"} <= set(METHODS)
    assert {"ok", "cancelled", "deadline", "invalid", "overloaded", "unavailable", "error"} <= set(OUTCOME_LABELS)


@pytest.mark.usefixtures("server")
def test_every_one_is_there_from_the_start(metrics: Metrics) -> None:
    found = [sample for sample in samples(metrics) if not sample.value]
    words = {(sample.labels["method"], sample.labels["outcome"]) for sample in found}
    assert words == {(method, outcome) for method in METHODS for outcome in OUTCOME_LABELS}


async def test_what_no_method_sees_is_not_counted(
    server: Server, channel: grpc.aio.Channel, stub: GenerationServiceStub, metrics: Metrics
) -> None:
    """And brings no series into being."""
    before = len(samples(metrics))
    for call, code in [
        (channel.unary_unary("/rhapsode.v1.GenerationService/Invented")(b""), grpc.StatusCode.UNIMPLEMENTED),
        (channel.unary_unary("/rhapsode.v1.InventedService/Generate")(b""), grpc.StatusCode.UNIMPLEMENTED),
        (
            stub.Generate(pb.GenerateRequest(prompt="x" * (REQUEST_LIMITS.max_message_bytes + 1))),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is code
    assert server.rotation.num_open_calls == 0
    assert len(samples(metrics)) == before
    assert sum(sample.value for sample in samples(metrics)) == 0


def samples(metrics: Metrics) -> list:
    calls = [family for family in metrics.registry.collect() if family.name == "rhapsode_calls"]
    return [sample for family in calls for sample in family.samples]

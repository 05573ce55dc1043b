"""Calls with one answer, through both clients."""

import asyncio
import threading
import time
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2
from rhapsode_client import (
    AsyncClient,
    Cancelled,
    Client,
    Completion,
    DeadlineExceeded,
    Evaluation,
    FinishReason,
    InvalidRequest,
    Limits,
    Model,
    ModelVersion,
    Sampling,
    Timings,
    Token,
    Unavailable,
    Usage,
    VersionState,
)

SEA = Completion(
    text="Sea, sea!",
    finish_reason=FinishReason.STOP_STRING,
    matched_stop="END",
    model="poems",
    version=3,
    seed=2**64 - 1,
    token_ids=(0, 1, 2),
    usage=Usage(prompt_tokens=4, cached_tokens=1, completion_tokens=3),
    timings=Timings(queue=0.001, first_token=0.02, total=1.0),
    sampling=Sampling(temperature=0.8, top_k=0, top_p=0.95, seed=2**64 - 1),
    request_id="r-1",
)
POEMS = Model(
    name="poems",
    aliases={"candidate": 3, "champion": 2},
    versions=(
        ModelVersion(
            version=2,
            state=VersionState.SERVING,
            reason="",
            dtype="float32",
            device="cpu",
            parameter_count=3_700_000,
            limits=Limits(context_length=256, vocabulary_size=2048, max_sequences=64, max_queued_requests=512),
            evaluation=Evaluation(bits_per_byte=1.25, perplexity=None, accepted=False),
        ),
        ModelVersion(
            version=3,
            state=VersionState.QUARANTINED,
            reason="unsupported_architecture: [red]GPT-Neo",
            dtype="",
            device="",
            parameter_count=0,
            limits=None,
            evaluation=None,
        ),
    ),
    traffic={1: 30, 2: 90},
)


async def test_calls_go_to_all_addresses_of_a_name_in_turn(connect: Any, server: Any, another_server: Any) -> None:
    servers = (server, another_server)
    async with connect(f"ipv4:{server.address},{another_server.address}") as client:
        # The second connection may be there a moment after the first.
        deadline = time.monotonic() + 10
        while not all(each.requests for each in servers) and time.monotonic() < deadline:
            await client.generate("The moon")
        before = [len(each.requests) for each in servers]
        for _ in range(6):
            await client.generate("The moon")
    assert [len(each.requests) - count for each, count in zip(servers, before, strict=True)] == [3, 3]


async def test_generate_returns_the_whole_completion(client, server):
    assert await client.generate("The") == SEA
    assert server.requests == [pb.GenerateRequest(prompt="The")]


async def test_every_option_reaches_the_server(client, server):
    await client.generate(
        [1, 2],
        model="poems",
        alias="previous",
        max_new_tokens=0,
        temperature=0.0,
        top_k=5,
        top_p=0.5,
        seed=2**64 - 1,
        stop=["a", "b"],
        stop_token_ids=[7],
        ignore_eos=True,
        token_ids=True,
        skip_special_tokens=False,
        request_id="mine",
    )
    assert server.requests == [
        pb.GenerateRequest(
            prompt_token_ids=pb.TokenIds(ids=[1, 2]),
            model="poems",
            alias="previous",
            sampling=pb.SamplingParameters(temperature=0.0, top_k=5, top_p=0.5, seed=2**64 - 1),
            stopping=pb.StoppingCriteria(max_new_tokens=0, stop_strings="ab", stop_token_ids=[7], ignore_eos=True),
            output=pb.OutputOptions(token_ids=True, skip_special_tokens=False),
            request_id="mine",
        )
    ]


async def test_tokenize_and_detokenize(client, server):
    assert await client.tokenize("séa", version=2) == [Token(id=5, piece="Ġséa", start=0, end=5)]
    assert await client.detokenize([5], model="poems", skip_special_tokens=False) == "séa"
    assert server.requests == [
        pb.TokenizeRequest(text="séa", version=2),
        pb.DetokenizeRequest(model="poems", token_ids=pb.TokenIds(ids=[5]), skip_special_tokens=False),
    ]


async def test_models(client, server):
    assert await client.models() == [POEMS]
    assert await client.model("poems") == POEMS
    assert server.requests == [models_pb2.ListModelsRequest(), models_pb2.GetModelRequest(model="poems")]


async def test_health(client, server):
    assert await client.health() == "SERVING"
    server.scripts["Check"] = [health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)]
    assert await client.health("model/poems") == "NOT_SERVING"
    assert server.requests[1].service == "model/poems"


async def test_a_deadline_ends_the_call_at_the_server_too(client, server):
    server.scripts["Generate"] = [threading.Event()]
    with pytest.raises(DeadlineExceeded):
        await client.generate("The", timeout=0.1)
    assert await asyncio.to_thread(server.cancelled.wait, 10)


async def test_the_clients_timeout_holds_where_a_call_has_none(connect, server):
    async with connect(server.address, timeout=50) as client:
        await client.models()
        await client.models(timeout=5)
    of_client, of_call = server.time_left
    assert of_client == pytest.approx(50, abs=5)
    assert of_call == pytest.approx(5, abs=2)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_a_timeout_is_a_positive_number_of_seconds(connect, client, seconds):
    with pytest.raises(ValueError, match="timeout must be a positive number"):
        connect("127.0.0.1:1", timeout=seconds)
    with pytest.raises(ValueError, match="timeout must be a positive number"):
        await client.models(timeout=seconds)


async def test_a_request_that_cannot_be_expressed_is_not_sent(client, server):
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("The", seed=-1)
    assert [violation.field for violation in caught.value.violations] == ["sampling.seed"]
    assert server.requests == []


async def test_an_unknown_option_is_a_type_error(client):
    with pytest.raises(TypeError, match="temprature"):
        await client.generate("The", temprature=1.0)


async def test_nobody_listens(connect, free_address):
    async with connect(free_address) as client:
        with pytest.raises(Unavailable) as caught:
            await client.generate("The")
    assert caught.value.retry_after is None
    assert free_address in str(caught.value)


async def test_an_answer_may_be_longer_than_the_default_limit_of_grpc(client, server):
    server.scripts["Detokenize"] = [pb.DetokenizeResponse(text="x" * 5_000_000)]
    assert len(await client.detokenize([1])) == 5_000_000


async def test_the_address_comes_from_the_environment(server, monkeypatch):
    assert Client().address == "127.0.0.1:50051"
    monkeypatch.setenv("RHAPSODE_ADDRESS", server.address)
    with Client() as client:
        assert client.address == server.address
        assert client.health() == "SERVING"
    async with AsyncClient() as client:
        assert await client.health() == "SERVING"


async def test_closing_cancels_what_is_under_way(connect, server):
    server.scripts["GenerateStream"] = [*server.scripts["GenerateStream"][:2], threading.Event()]
    client = connect(server.address)
    stream = client.stream("The")
    await anext(stream)
    await client.close()
    assert await asyncio.to_thread(server.cancelled.wait, 10)
    with pytest.raises(Cancelled):
        await stream.result()


async def test_closing_ends_a_call_that_another_task_awaits(server):
    server.scripts["Generate"] = [threading.Event()]
    client = AsyncClient(server.address)
    call = asyncio.create_task(client.generate("The"))
    await asyncio.to_thread(server.arrived.wait, 10)
    await client.close()
    with pytest.raises(Cancelled):
        await call


def test_threads_share_a_client(server):
    with Client(server.address) as client:
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(client.generate("The").text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert texts == ["Sea, sea!"] * 8

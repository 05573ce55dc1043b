"""Calls that the server could not take are tried again: as often as asked, when it says, and only if nothing came."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from rhapsode_client import AsyncClient, Client, Overloaded, ServerError, Unavailable
from rhapsode_client.admin import AdminClient

RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
AT_ONCE = "1"


@pytest.fixture
def refusal(failure: Any) -> Callable[..., Any]:
    """A status after which the server asks to come back in so many milliseconds."""
    return lambda code, milliseconds=AT_ONCE: failure(code=code, metadata=(("grpc-retry-pushback-ms", milliseconds),))


@pytest.fixture
def patient(connect: Any, server: Any) -> Any:
    """Makes a client that tries again."""
    return lambda retries=4: connect(server.address, retries=retries)


async def _text(client: Any, method: str) -> str:
    return (await (client.generate("The") if method == "generate" else client.stream("The").result())).text


@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize("code", RETRYABLE)
async def test_a_refused_call_is_made_again_until_it_is_taken(patient, server, refusal, code, method):
    server.refusals = [refusal(code)] * 4
    async with patient() as client:
        assert await _text(client, method) == "Sea, sea!"
    assert [each.get("grpc-previous-rpc-attempts") for each in server.metadata] == [None, "1", "2", "3", "4"]


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (4, 5)])
async def test_as_often_as_asked_and_then_it_fails(patient, server, refusal, retries, calls):
    server.refusals = [refusal(grpc.StatusCode.RESOURCE_EXHAUSTED)] * 9
    async with patient(retries) as client:
        with pytest.raises(Overloaded):
            await client.generate("The")
    assert len(server.requests) == calls


async def test_the_server_says_when(patient, server, refusal):
    server.refusals = [refusal(grpc.StatusCode.UNAVAILABLE, "300")]
    async with patient() as client:
        began = time.monotonic()
        await client.generate("The")
    # gRPC's own first wait is at most 120 ms.
    assert 0.3 <= time.monotonic() - began < 3


@pytest.mark.parametrize("method", ["generate", "stream"])
async def test_the_server_says_that_it_is_not_worth_it(patient, server, refusal, method):
    server.refusals = [refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "-1")]
    async with patient() as client:
        with pytest.raises(Overloaded):
            await _text(client, method)
    assert len(server.requests) == 1


async def test_other_failures_are_final(patient, server, refusal):
    server.refusals = [refusal(grpc.StatusCode.INTERNAL)]
    async with patient() as client:
        with pytest.raises(ServerError):
            await client.generate("The")
    assert len(server.requests) == 1


@pytest.mark.parametrize("events", [1, 2])
async def test_a_stream_that_has_begun_is_never_made_again(patient, server, refusal, events):
    begun = server.scripts["GenerateStream"][:events]
    server.scripts["GenerateStream"] = [*begun, refusal(grpc.StatusCode.UNAVAILABLE)]
    async with patient() as client:
        with pytest.raises(Unavailable):
            await client.stream("The").result()
    assert len(server.requests) == 1


async def test_a_large_request_is_made_again_too(patient, server, refusal):
    server.refusals = [refusal(grpc.StatusCode.UNAVAILABLE)]
    async with patient() as client:
        await client.generate("sea " * 200_000)
    assert len(server.requests) == 2


async def test_neither_health_nor_what_operators_do_is_made_again(patient, server, refusal):
    server.refusals = [refusal(grpc.StatusCode.UNAVAILABLE)]
    async with patient() as client:
        with pytest.raises(Unavailable):
            await client.health()
    server.refusals = [refusal(grpc.StatusCode.UNAVAILABLE)]
    with AdminClient(server.address) as admin, pytest.raises(Unavailable):
        admin.drain()
    assert len(server.requests) == 2


@pytest.mark.parametrize("retries", [-1, 5])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_more_than_grpc_does_is_refused(kind, retries):
    with pytest.raises(ValueError, match=f"retries must be 0 to 4, not {retries}"):
        kind("127.0.0.1:1", retries=retries)


async def test_a_retry_goes_to_the_next_address(connect, server, another_server, refusal):
    server.refusals = [refusal(grpc.StatusCode.UNAVAILABLE)] * 99
    async with connect(f"ipv4:{server.address},{another_server.address}", retries=4) as client:
        for _ in range(6):
            assert (await client.generate("The")).text == "Sea, sea!"
    assert len(another_server.requests) == 6
    assert {each.get("grpc-previous-rpc-attempts") for each in server.metadata} <= {None, "1", "2", "3"}


async def test_nobody_answers(connect, free_address):
    began = time.monotonic()
    async with connect(free_address, retries=2) as client:
        with pytest.raises(Unavailable) as caught:
            await client.generate("The")
    assert caught.value.retry_after is None
    assert time.monotonic() - began > 0.2

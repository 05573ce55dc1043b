"""Failures arrive as the errors that were scripted."""

import asyncio
import math

import pytest
from rhapsode_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RhapsodeError,
    ServerError,
    Unavailable,
)
from rhapsode_client.statuses import ERRORS
from rhapsode_client.testing import FakeServer
from rhapsode_client.testing.statuses import CODES


@pytest.mark.parametrize("kind", CODES)
def test_every_error_comes_back_as_itself(server, client, kind):
    server.fail(kind("why"))
    with pytest.raises(RhapsodeError, match=r"^why$") as of_call:
        client.generate("The sea", request_id="r-1")
    with pytest.raises(RhapsodeError, match=r"^why$") as of_stream:
        client.stream("The sea", request_id="r-2").result()
    assert type(of_call.value) is type(of_stream.value) is kind
    assert (of_call.value.request_id, of_stream.value.request_id) == ("r-1", "r-2")


def test_every_error_that_a_client_raises_can_be_scripted():
    assert set(CODES) == set(ERRORS.values())
    assert all(ERRORS[code] is kind for kind, code in CODES.items())


def test_details_come_with_it(server, client):
    server.fail(InvalidRequest.of("sampling.top_p", "must be in (0, 1]"), prompt="The sea")
    server.fail(Overloaded("busy"), retry_after=1.5)
    with pytest.raises(InvalidRequest) as invalid:
        client.generate("The sea")
    assert invalid.value.violations == (("sampling.top_p", "must be in (0, 1]"),)
    with pytest.raises(Overloaded) as busy:
        client.generate("The moon")
    assert busy.value.retry_after == 1.5


def test_a_client_tries_again_as_it_would_in_earnest(server):
    server.fail(Overloaded("busy"), retry_after=0.01)
    server.reply("text")
    with Client(server.address, retries=1) as client:
        assert client.generate("The sea").text == "text"
    assert len(server.requests) == 2


def test_a_stream_may_fail_in_the_middle(server, client):
    server.fail(Unavailable("the worker was lost"), after="a b", retry_after=0.5)
    texts = []
    with client.stream("The sea") as stream, pytest.raises(Unavailable, match="worker was lost"):
        texts.extend(delta.text for delta in stream)
    assert texts == ["a", " b"]


def test_what_cannot_be_scripted_is_refused(server):
    with pytest.raises(ValueError, match="error must be one of InvalidRequest, "):
        server.fail(RhapsodeError("what?"))
    with pytest.raises(ValueError, match="retry_after is for Overloaded and Unavailable, not ServerError"):
        server.fail(ServerError("oh"), retry_after=1)
    with pytest.raises(InvalidRequest):
        server.reply("text", prompt=[-1])


def test_a_reply_that_never_comes_meets_the_deadline(server, client):
    server.reply("text", delay=math.inf)
    with pytest.raises(DeadlineExceeded):
        client.generate("The sea", timeout=0.2)
    assert server.calls[0].timeout <= 0.2
    assert server.calls[0].cancelled.wait(10)


def test_a_stream_that_is_left_is_known_as_cancelled(server, client):
    server.reply("a b", token_delay=math.inf)
    with client.stream("The sea") as stream:
        server.wait_for_calls()
        stream.cancel()
        with pytest.raises(Cancelled):
            next(stream)
    assert server.calls[0].cancelled.wait(10)


async def test_a_task_that_is_cancelled_cancels_the_call(server):
    server.reply(["a", "b"], token_delay=0)
    server.reply("c", delay=math.inf)
    async with AsyncClient(server.address) as client:
        assert (await client.generate("The sea")).text == "ab"
        task = asyncio.create_task(client.generate("The sea"))
        await asyncio.to_thread(server.wait_for_calls, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.calls[1].cancelled.wait, 10)
    assert not server.calls[0].cancelled.is_set()


def test_what_ended_well_was_not_cancelled(server, client):
    server.reply("a b")
    with client.stream("The sea") as stream:
        stream.result()
    client.generate("The sea")
    client.models()
    assert not any(call.cancelled.is_set() for call in server.calls)


def test_calls_that_wait_end_with_the_server():
    with FakeServer() as server, Client(server.address, retries=0) as client:
        server.reply("a b", token_delay=math.inf)
        stream = client.stream("The sea")
        server.wait_for_calls()
    with pytest.raises(RhapsodeError):
        stream.result()
    assert server.address == ""


def test_a_call_that_does_not_come_is_not_waited_for_long(server):
    with pytest.raises(TimeoutError, match=r"0 of 1 calls came within 0\.01 s"):
        server.wait_for_calls(timeout=0.01)

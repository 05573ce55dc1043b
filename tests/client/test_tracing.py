"""A call is part of the trace that its caller is in."""

from typing import Any

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context
from rhapsode.v1 import generation_pb2 as pb

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def _call(client: Any, method: str, **options: Any) -> None:
    match method:
        case "generate":
            await client.generate("The", **options)
        case "stream":
            await client.stream("The", **options).result()
        case "score":
            await client.score("The", **options)
        case "generate_many":
            assert [each.text async for each in client.generate_many(["The"], **options)] == ["Sea, sea!"]


@pytest.fixture(autouse=True)
def _scored(server: Any) -> None:
    server.scripts["Score"] = [pb.ScoreResponse()]


METHODS = ["generate", "stream", "score", "generate_many"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_trace_is_passed_on(client, server, method):
    await _call(client, method, trace=TRACEPARENT)
    assert server.metadata[0]["traceparent"] == TRACEPARENT


@pytest.mark.parametrize("method", METHODS)
async def test_that_of_opentelemetrys_span_is_passed_on(client, server, method):
    context = SpanContext(
        2**100, 2**50, is_remote=False, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")])
    )
    token = attach(set_span_in_context(NonRecordingSpan(context)))
    await _call(client, method)
    detach(token)
    assert server.metadata[0]["traceparent"] == "00-00000010000000000000000000000000-0004000000000000-01"
    assert server.metadata[0]["tracestate"] == "a=b"


async def test_without_a_span_nothing_is_passed_on(client, server):
    await client.generate("The")
    assert not {"traceparent", "tracestate"} & set(server.metadata[0])


async def test_what_is_no_trace_is_named(client, server):
    with pytest.raises(ValueError, match="trace: must be a W3C traceparent"):
        await client.generate("The", trace="my trace")
    assert server.requests == []

"""A small OTLP collector: takes spans over gRPC and keeps them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support.fake_models import PATIENCE


@dataclass
class Collector(TraceServiceServicer):
    """What has arrived. With `hangs` it takes calls and never answers."""

    hangs: bool = False
    url: str = ""
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
        async with self._news:
            for of_resource in request.resource_spans:
                self.resource = attributes(of_resource.resource)
                self.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
            self._news.notify_all()
        if self.hangs:
            await asyncio.Event().wait()
        return ExportTraceServiceResponse()

    async def until(self, num_spans: int) -> list[Span]:
        """So many, in the order of their beginnings."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.spans) >= num_spans)
        assert len(self.spans) == num_spans
        return sorted(self.spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))


def attributes(of: Any) -> dict[str, Any]:
    """Of a span or a resource, as plain values."""
    return {each.key: _plain(each.value) for each in of.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_plain(each) for each in found.values] if kind == "array_value" else found


@asynccontextmanager
async def running_collector(*, hangs: bool = False) -> AsyncIterator[Collector]:
    collector, server = Collector(hangs=hangs), grpc.aio.server()
    add_TraceServiceServicer_to_server(collector, server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)

"""The log of a real server and its engine process, as JSON, and its traces."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="pip install -e 'server[otel]'")

from support.collector import Collector, attributes, running_collector

PROMPT = "a very private matter"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as collector:
        yield collector


@pytest.fixture
def process(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServerProcess]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    root = tmp_path_factory.mktemp("logged")
    publish_tiny(root, "gpt2", "gpt2")
    flags = ("--threads", "1", "--standby", "off", "--log-format", "json", "--otlp-endpoint", collector.url)
    with running_server(root, *flags) as process:
        yield process


@pytest.fixture
async def stub(process: ServerProcess) -> AsyncIterator[GenerationServiceStub]:
    async with grpc.aio.insecure_channel(process.address) as channel:
        yield GenerationServiceStub(channel)


def lines(process: ServerProcess, message: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, process.log) if line["message"] == message]


async def test_every_line_is_json_and_lost_requests_are_named(
    process: ServerProcess, stub: GenerationServiceStub, collector: Collector
) -> None:
    await asyncio.to_thread(process.wait_serving, "model/gpt2")
    stopping = pb.StoppingCriteria(max_new_tokens=5, ignore_eos=True)
    await stub.Generate(pb.GenerateRequest(prompt=PROMPT, request_id="r-1", stopping=stopping))
    [worker] = process.worker_processes()
    os.kill(worker, signal.SIGSTOP)
    lost = stub.GenerateStream(pb.GenerateRequest(prompt=PROMPT, request_id="r-2", stopping=stopping))
    assert (await lost.read()).HasField("started")
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError):
        await lost.read()
    process.terminate()
    # In a thread: the collector is to take the last spans meanwhile.
    assert await asyncio.to_thread(process.wait) == 0
    [record] = lines(process, "1 requests end with their process")
    assert (record["request_ids"], record["process"]) == (["r-2"], worker)
    ended = {line["request_id"]: line for line in lines(process, "request")}
    assert (ended["r-1"]["code"], ended["r-2"]["code"]) == ("OK", "UNAVAILABLE")
    assert not any(PROMPT in line for line in process.log)
    spans = await collector.until(5 + 3)
    [root] = [span for span in spans if attributes(span).get("rhapsode.request_id") == "r-1"]
    phases = [span for span in spans if span.parent_span_id == root.span_id]
    assert [span.name for span in phases] == ["tokenise", "queue", "prefill", "decode"]
    assert root.trace_id.hex() == ended["r-1"]["trace_id"]
    assert phases[-1].end_time_unix_nano > phases[-1].start_time_unix_nano

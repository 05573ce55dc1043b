"""Calls as OpenTelemetry spans, sent to a collector."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server import errors
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.errors import CannotStart
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from rhapsode_server.rpc.trace import open_tracing
from support.fake_models import PATIENCE, FakeEngine, FakeModels, Submitted
from support.logs import ServerLog

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="pip install -e 'server[otel]'")

from support.collector import Collector, attributes, running_collector

SECRET = "xyzzy"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
SERVICE = "rhapsode.v1.GenerationService"
PHASES = ["tokenise", "queue", "prefill", "decode"]


@pytest.fixture(autouse=True)
def _sends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as collector:
        yield collector


@pytest.fixture
def config(config: ServerConfig, collector: Collector) -> ServerConfig:
    return replace(config, otlp_endpoint=collector.url)


@pytest.fixture
async def server(
    config: ServerConfig, models: FakeModels, metrics: Metrics, health: HealthService
) -> AsyncIterator[Server]:
    with open_tracing(config) as tracing:
        server = Server(config, models, metrics, health, tracing)
        await server.start()
        yield server
        await server.stop()


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def slow_answer(engine: FakeEngine) -> Submitted:
    """The engine takes a moment for everything."""
    request = await engine.arrival()
    await asyncio.sleep(0.01)
    request.stream.mark_started(0.0, num_cached_tokens=2)
    await asyncio.sleep(0.01)
    request.says("of")
    await asyncio.sleep(0.01)
    request.says(" the sea", FinishReason.LENGTH)
    return request


async def test_a_request_and_its_phases(
    stub: GenerationServiceStub, engine: FakeEngine, collector: Collector, server_log: ServerLog
) -> None:
    began = time.time_ns()
    request = pb.GenerateRequest(
        prompt="Sing",
        request_id="r-1",
        sampling=pb.SamplingParameters(temperature=0.5, top_p=0.75, top_k=40, seed=7),
        stopping=pb.StoppingCriteria(max_new_tokens=12),
    )
    call = stub.Generate(request, metadata=SAMPLED)
    await slow_answer(engine)
    await call
    root, *phases = await collector.until(5)
    ended = time.time_ns()
    assert (root.name, root.kind, root.status.code) == (f"{SERVICE}/Generate", root.SPAN_KIND_SERVER, 0)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert [span.name for span in phases] == PHASES
    assert {(span.trace_id.hex(), span.parent_span_id) for span in phases} == {(TRACE, root.span_id)}
    moments = [began, root.start_time_unix_nano, phases[0].start_time_unix_nano]
    moments += [span.end_time_unix_nano for span in phases]
    assert moments == sorted(moments)
    assert moments[-1] == root.end_time_unix_nano <= ended
    for before, after in pairwise(phases):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert all(span.end_time_unix_nano - span.start_time_unix_nano >= 9e6 for span in phases[1:])
    found = attributes(root)
    assert found.pop("gen_ai.response.time_to_first_chunk") == pytest.approx(
        (phases[3].start_time_unix_nano - root.start_time_unix_nano) / 1e9, abs=1e-3
    )
    assert found == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/Generate",
        "rpc.response.status_code": "OK",
        "rhapsode.request_id": "r-1",
        "rhapsode.model.version": 3,
        "gen_ai.provider.name": "rhapsode",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "poems",
        "gen_ai.request.max_tokens": 12,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.top_p": 0.75,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": "r-1",
        "gen_ai.response.model": "poems",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 2,
    }
    [line] = [line for line in server_log.lines if line["message"] == "request"]
    assert (line["trace_id"], line["request_id"]) == (TRACE, "r-1")


@pytest.fixture(params=["", "poets"])
def service_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OTEL_SERVICE_NAME", request.param)
    return request.param or "rhapsode"


async def test_who_sends_them(
    service_name: str, stub: GenerationServiceStub, engine: FakeEngine, collector: Collector
) -> None:
    engine.will_say("sea")
    await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    await collector.until(5)
    assert collector.resource["service.name"] == service_name
    assert collector.resource["service.version"]
    assert collector.resource["service.instance.id"]


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("traceparent", "00-0-0-01"),),
        (("traceparent", f"00-{'0' * 32}-{PARENT}-01"),),
        (("traceparent", f"ff-{TRACE}-{PARENT}-01"),),
        (("traceparent", "x" * 4000),),
        (("tracestate", "a=1"),),
        (("baggage", f"x={SECRET}"),),
    ],
    ids=["none", "short", "no trace", "no version", "long", "state alone", "baggage"],
)
async def test_without_a_valid_parent_it_is_a_trace_of_its_own(
    stub: GenerationServiceStub, engine: FakeEngine, collector: Collector, metadata: tuple[tuple[str, str], ...]
) -> None:
    engine.will_say("sea")
    await stub.Generate(pb.GenerateRequest(prompt="Sing"), metadata=metadata)
    root, *phases = await collector.until(5)
    assert root.parent_span_id == b""
    assert root.trace_id not in (b"", bytes(16), bytes.fromhex(TRACE))
    assert {span.trace_id for span in phases} == {root.trace_id}


async def test_what_the_caller_does_not_sample_is_not_sent(
    stub: GenerationServiceStub, engine: FakeEngine, collector: Collector
) -> None:
    engine.will_say("sea")
    unsampled = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
    await stub.Generate(pb.GenerateRequest(prompt="Sing"), metadata=unsampled)
    await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    assert TRACE not in {span.trace_id.hex() for span in await collector.until(5)}


async def test_each_completion_of_a_batch_has_its_own(
    stub: GenerationServiceStub, engine: FakeEngine, collector: Collector
) -> None:
    engine.will_say("sea")
    item = pb.GenerateBatchItem(request=pb.GenerateRequest(prompt="Sing"), num_completions=2)
    bad = pb.GenerateBatchItem(request=pb.GenerateRequest(prompt="Sing", model="prose"))
    async for _ in stub.GenerateBatch(pb.GenerateBatchRequest(items=[item, bad]), metadata=SAMPLED):
        pass
    spans = await collector.until(12)
    [root] = [span for span in spans if span.name == f"{SERVICE}/GenerateBatch"]
    completions = [span for span in spans if span.name == "completion"]
    assert {span.parent_span_id for span in completions} == {root.span_id}
    below = {
        completion.span_id: [span.name for span in spans if span.parent_span_id == completion.span_id]
        for completion in completions
    }
    assert sorted(below.values()) == [[], PHASES, PHASES]
    for completion in completions:
        status = "OK" if below[completion.span_id] else "NOT_FOUND"
        assert attributes(completion)["rpc.response.status_code"] == status
    assert attributes(root)["gen_ai.usage.output_tokens"] == 6


@pytest.mark.parametrize(
    ("raised", "code", "is_failure"),
    [
        (errors.Overloaded("no"), "RESOURCE_EXHAUSTED", False),
        (errors.NotFound("no"), "NOT_FOUND", False),
        (errors.Unavailable("no"), "UNAVAILABLE", True),
        (RuntimeError(SECRET), "INTERNAL", True),
    ],
)
async def test_failures(
    stub: GenerationServiceStub,
    models: FakeModels,
    collector: Collector,
    raised: Exception,
    code: str,
    is_failure: bool,
) -> None:
    models.failure = raised
    await failure(stub.Generate(pb.GenerateRequest(prompt="Sing")))
    [root] = await collector.until(1)
    assert attributes(root)["error.type"] == attributes(root)["rpc.response.status_code"] == code
    assert (root.status.code == root.status.STATUS_CODE_ERROR) is is_failure
    assert SECRET.encode() not in root.SerializeToString()


async def test_the_phase_that_a_cancelled_request_was_in_ends_with_it(
    stub: GenerationServiceStub, engine: FakeEngine, collector: Collector
) -> None:
    call = stub.Generate(pb.GenerateRequest(prompt="Sing"))
    await engine.arrival()
    call.cancel()
    root, *phases = await collector.until(3)
    assert [span.name for span in phases] == ["tokenise", "queue"]
    assert phases[-1].end_time_unix_nano == root.end_time_unix_nano
    assert attributes(root)["rpc.response.status_code"] == "CANCELLED"


async def test_scoring_has_no_decode(stub: GenerationServiceStub, engine: FakeEngine, collector: Collector) -> None:
    call = stub.Score(pb.ScoreRequest(text="Sing"), timeout=0.05)
    request = await engine.arrival()
    request.stream.mark_started(0.0)
    await failure(call)
    root, *phases = await collector.until(4)
    assert [span.name for span in phases] == PHASES[:3]
    assert attributes(root)["gen_ai.operation.name"] == "score"


async def test_any_request_can_be_sent(stub: GenerationServiceStub, engine: FakeEngine, collector: Collector) -> None:
    engine.will_say("sea")
    sampling = pb.SamplingParameters(seed=2**64 - 1, temperature=1e-30, presence_penalty=-2)
    limits = pb.StoppingCriteria(max_new_tokens=2**31 - 1, time_limit=Duration(seconds=1))
    await stub.Generate(pb.GenerateRequest(prompt="Sing", sampling=sampling, stopping=limits))
    root, *_ = await collector.until(5)
    assert attributes(root)["gen_ai.request.seed"] == str(2**64 - 1)


async def test_no_span_holds_what_is_sent_or_answered(
    stub: GenerationServiceStub, engine: FakeEngine, collector: Collector
) -> None:
    engine.will_say(SECRET)
    stopping = pb.StoppingCriteria(stop_strings=[f"{SECRET}!"])
    await stub.Generate(pb.GenerateRequest(prompt=SECRET, stopping=stopping))
    await stub.Tokenize(pb.TokenizeRequest(text=SECRET))
    assert not any(SECRET.encode() in span.SerializeToString() for span in await collector.until(6))


async def call_many(engine: FakeEngine, config: ServerConfig, num_calls: int) -> float:
    """Seconds that a server with these settings takes for so many calls one after the other, and to end."""
    models = FakeModels(engine=engine)
    engine.will_say("sea")
    with open_tracing(config) as tracing:
        server = Server(config, models, Metrics(), HealthService(()), tracing)
        await server.start()
        began = time.monotonic()
        async with grpc.aio.insecure_channel(server.address) as channel:
            for _ in range(num_calls):
                answer = await GenerationServiceStub(channel).Generate(pb.GenerateRequest(prompt="Sing"))
                assert answer.text == "sea"
        await server.stop()
    return time.monotonic() - began


@pytest.mark.parametrize("hangs", [False, True], ids=["away", "hanging"])
async def test_a_collector_that_does_not_answer_holds_nobody_up(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch, hangs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setattr("rhapsode_server.rpc.tracing._EXPORT_SECONDS", 1)
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    before = set(threading.enumerate())
    async with running_collector(hangs=hangs) as collector:
        endpoint = collector.url if hangs else "http://127.0.0.1:1"
        seconds = await call_many(FakeEngine(), replace(config, otlp_endpoint=endpoint), 100)
    assert seconds < PATIENCE
    # What still tries in the background would draw random numbers during other tests.
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 60)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry", "rhapsode_server.rpc.tracing"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    opening = open_tracing(ServerConfig(models=Path("models"), otlp_endpoint="http://127.0.0.1:4317"))
    with pytest.raises(CannotStart, match=r"^--otlp-endpoint: .*pip install 'rhapsode-server\[otel\]'"), opening:
        pass


def test_it_is_imported_only_where_it_is_asked_for() -> None:
    program = "import sys, rhapsode_server.__main__; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    subprocess.run([sys.executable, "-c", program], check=True)

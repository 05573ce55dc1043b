"""Calls over HTTP are traced as those over gRPC are."""

from typing import Any

import pytest
from openai import AsyncOpenAI
from rhapsode_server.config import ServerConfig
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.errors import OK, Outcome
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.server import Server
from rhapsode_server.rpc.trace import Metadata
from support.fake_models import PATIENCE, FakeModels

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recording:
    """What OpenTelemetry would hear."""

    id = "0af7651916cd43dd8448eb211c80319c"

    def __init__(self) -> None:
        self.begun: list[tuple[str, dict[str, Any]]] = []
        self.ended: list[tuple[str, int, Outcome]] = []

    def begin(self, call: Call, path: str, metadata: Metadata) -> "Recording":
        self.begun.append((path, dict(metadata)))
        return self

    def note_completion(self, completion: Call, outcome: Outcome) -> None:
        self.ended.append(("completion", completion.num_generated_tokens, outcome))

    def end(self, call: Call, outcome: Outcome) -> None:
        self.ended.append((call.method, call.num_generated_tokens, outcome))


async def test_a_call_is_a_part_of_its_callers_trace(config: ServerConfig, models: FakeModels) -> None:
    models.engine.will_say("sea")
    tracing = Recording()
    server = Server(config, models, Metrics(), HealthService(()), tracing)
    await server.start()
    url = f"http://{server.openai_address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        await client.completions.create(model="poems", prompt="Sing", n=2, extra_headers={"traceparent": PARENT})
    await server.stop()
    [(path, metadata)] = tracing.begun
    assert (path, metadata["traceparent"]) == ("/v1/completions", PARENT)
    assert tracing.ended == [("completion", 3, OK), ("completion", 3, OK), ("completions", 6, OK)]


def test_spans_say_which_way_a_call_came() -> None:
    tracing = pytest.importorskip("rhapsode_server.rpc.tracing", reason="pip install -e 'server[otel]'")
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    for name, system in (("v1/completions", "openai"), ("rhapsode.v1.GenerationService/Generate", "grpc")):
        trace = tracing.CallTrace(tracer, Call(method="any"), name, Context())
        assert trace._span.attributes == {"rpc.system.name": system, "rpc.method": name}

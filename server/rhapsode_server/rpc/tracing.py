"""Calls as OpenTelemetry spans, sent by OTLP over gRPC: the only user of opentelemetry, imported where it is asked for.

    rhapsode.v1.GenerationService/Generate     from the arrival of the call to its end
      tokenise -> queue -> prefill -> decode   one after the other
    rhapsode.v1.GenerationService/GenerateBatch
      completion                               each with the four of its own

Spans are made of the times that a call has gathered anyway, when it ends. Names and attributes are those of the
semantic conventions for RPC and for generative AI; what they do not know is under `rhapsode.`. No span holds what
callers send or get.
"""

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version as distribution_version
from itertools import pairwise

from grpc import StatusCode
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status
from opentelemetry.trace.status import StatusCode as SpanStatus
from opentelemetry.util.types import AttributeValue

from rhapsode_server.config import ServerConfig
from rhapsode_server.identity import server_name
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.errors import Outcome
from rhapsode_server.rpc.requests.generate import GenerationRequest
from rhapsode_server.rpc.trace import Metadata

# Seconds that a collector may take for a batch, and that the last one may hold the server's end up.
_EXPORT_SECONDS = 5
_FLUSH_SECONDS = 2.0

_TRACE_KEYS = ("traceparent", "tracestate")
# Of the sampling parameters, those that the semantic conventions know, by the same names.
_SAMPLING = ("temperature", "top_k", "top_p", "seed", "frequency_penalty", "presence_penalty")
# The statuses that are a failure of the server, by the semantic conventions for gRPC.
_FAILURES = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)

_propagator = TraceContextTextMapPropagator()

Attributes = Iterator[tuple[str, AttributeValue]]


class OpenTelemetry:
    """Gathers spans and sends them from a thread of its own. What a collector does not take is dropped.

    What the server's settings leave open, OpenTelemetry's own variables decide: OTEL_SERVICE_NAME,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_* and others.
    """

    def __init__(self, config: ServerConfig) -> None:
        version = distribution_version("rhapsode-server")
        defaults = {"service.name": "rhapsode", "service.version": version, "service.instance.id": server_name(config)}
        # Those of the environment win.
        resource = Resource.create(defaults).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=config.otlp_endpoint, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rhapsode_server", version)

    def begin(self, call: Call, path: str, metadata: Metadata) -> "CallTrace":
        """A call of the method at `path` arrived. Its trace is that of `traceparent` if there is one."""
        carrier = {key: str(value) for key, value in metadata if key in _TRACE_KEYS}
        return CallTrace(self._tracer, call, path.removeprefix("/"), _propagator.extract(carrier, Context()))

    def close(self) -> None:
        """Send what is left, unless that takes long."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_SECONDS)


class CallTrace:
    """The spans of one call."""

    def __init__(self, tracer: Tracer, call: Call, name: str, parent: Context) -> None:
        self._tracer = tracer
        # From the clock of the times of calls to that of the world.
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._span = self._begin(name, call.arrived_at, parent, SpanKind.SERVER)
        system = "grpc" if name.startswith("rhapsode.") else "openai"
        self._span.set_attributes({"rpc.system.name": system, "rpc.method": name})

    @property
    def id(self) -> str:
        return format_trace_id(self._span.get_span_context().trace_id)

    def note_completion(self, completion: Call, outcome: Outcome) -> None:
        if self._span.is_recording():
            span = self._begin("completion", completion.arrived_at, set_span_in_context(self._span, Context()))
            self._end(span, completion, outcome)

    def end(self, call: Call, outcome: Outcome) -> None:
        if self._span.is_recording():
            self._end(self._span, call, outcome)

    def _end(self, span: Span, call: Call, outcome: Outcome) -> None:
        ended_at = time.monotonic()
        self._add_phases(span, call, ended_at)
        span.set_attributes(dict(_attributes(call, outcome)))
        if outcome.code in _FAILURES:
            span.set_status(Status(SpanStatus.ERROR))
        span.end(self._moment(ended_at))

    def _add_phases(self, span: Span, call: Call, ended_at: float) -> None:
        parent = set_span_in_context(span, Context())
        for name, began_at, until in _phases(call, ended_at):
            self._begin(name, began_at, parent).end(self._moment(until))

    def _begin(self, name: str, began_at: float, parent: Context, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        return self._tracer.start_span(name, parent, kind, start_time=self._moment(began_at))

    def _moment(self, seconds: float) -> int:
        """Nanoseconds of Unix time."""
        return self._epoch + round(seconds * 1e9)


def _phases(call: Call, ended_at: float) -> Iterator[tuple[str, float, float]]:
    """Those that were reached, from when to when: each until the next begins, the last until the end."""
    if call.tokenising is not None:
        yield "tokenise", *call.tokenising
    if call.tokens is None:
        return
    queued_at = call.tokenising[1] if call.tokenising else call.tokens.submitted_at
    moments = [("queue", queued_at), ("prefill", call.tokens.started_at)]
    if call.request is not None:
        moments.append(("decode", call.tokens.first_token_at))
    reached = [(name, began_at) for name, began_at in moments if began_at is not None]
    for (name, began_at), (_, until) in pairwise([*reached, ("", ended_at)]):
        yield name, began_at, until


def _attributes(call: Call, outcome: Outcome) -> Attributes:
    yield "rpc.response.status_code", outcome.code.name
    if outcome.code is not StatusCode.OK:
        yield "error.type", outcome.code.name
    yield "rhapsode.request_id", call.request_id
    if call.caller:
        yield "rhapsode.caller", call.caller
    if call.version is not None:
        yield "gen_ai.provider.name", "rhapsode"
        yield "gen_ai.request.model", call.model
        yield "gen_ai.response.model", call.model
        yield "rhapsode.model.version", call.version
    if call.request is not None:
        yield from _request_attributes(call.request)
    elif call.method == "Score":
        yield "gen_ai.operation.name", "score"
    yield from _usage_attributes(call)


def _request_attributes(request: GenerationRequest) -> Attributes:
    yield "gen_ai.operation.name", "text_completion" if request.prompt.turns is None else "chat"
    yield "gen_ai.request.max_tokens", request.stopping.max_new_tokens
    for name in _SAMPLING:
        if request.sampling.HasField(name):
            value = getattr(request.sampling, name)
            # OTLP has no larger integers, and one of them would cost the whole batch.
            yield f"gen_ai.request.{name}", value if value < 2**63 else str(value)


def _usage_attributes(call: Call) -> Attributes:
    if call.num_prompt_tokens:
        yield "gen_ai.usage.input_tokens", call.num_prompt_tokens
        yield "gen_ai.usage.output_tokens", call.num_generated_tokens
    if call.tokens and call.tokens.num_cached_tokens:
        yield "gen_ai.usage.cache_read.input_tokens", call.tokens.num_cached_tokens
    if call.first_token is not None and call.request is not None:
        yield "gen_ai.response.time_to_first_chunk", call.first_token
    if call.finish_reason:
        yield "gen_ai.response.id", call.request_id
        yield "gen_ai.response.finish_reasons", (call.finish_reason,)

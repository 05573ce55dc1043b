"""A scripted server on a free port, and both clients behind one awaitable interface."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rhapsode.v1 import admin_pb2, admin_pb2_grpc, generation_pb2_grpc, models_pb2, models_pb2_grpc
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import AsyncClient, Client

PATIENCE = 10.0
"""Seconds after which what a test waits for counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A status that ends a call, with its details."""

    code: grpc.StatusCode
    message: str = "it failed"
    details: Sequence[Message] = ()
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def abort(self, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((*self.metadata, *self._details()))
        context.abort(self.code, self.message)

    def _details(self) -> list[tuple[str, bytes]]:
        if not self.details:
            return []
        status = Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = Packed()
            packed.Pack(detail)
            status.details.append(packed)
        return [("grpc-status-details-bin", status.SerializeToString())]


Step = Message | Failure | threading.Event


@dataclass(slots=True)
class FakeServer:
    """Plays the script of each call: sends messages, waits for events (until the call ends), fails."""

    scripts: dict[str, Sequence[Step]] = field(default_factory=dict)
    refusals: list[Failure] = field(default_factory=list)
    """How the next calls end instead, one each."""
    requests: list[Message] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    time_left: list[float | None] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set when a call has come."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when a call ended before its script did."""
    address: str = ""

    def play(self, method: str, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_left.append(context.time_remaining())
        self.arrived.set()
        if self.refusals:
            self.refusals.pop(0).abort(context)
        script, played = self.scripts[method], threading.Event()
        context.add_callback(lambda: self._ended(script, played))
        for step in script:
            if isinstance(step, Failure):
                played.set()
                step.abort(context)
            elif isinstance(step, threading.Event):
                assert step.wait(PATIENCE)
            else:
                yield step
        played.set()

    def _ended(self, script: Sequence[Step], played: threading.Event) -> None:
        if not played.is_set():
            self.cancelled.set()
            for step in script:
                if isinstance(step, threading.Event):
                    step.set()

    def unary(self, method: str) -> Any:
        def call(request: Message, context: grpc.ServicerContext) -> Message:
            [answer] = self.play(method, request, context)
            return answer

        return call


def _serve(fake: FakeServer, executor: ThreadPoolExecutor) -> grpc.Server:
    generation = generation_pb2_grpc.GenerationServiceServicer()
    generation.GenerateStream = lambda request, context: fake.play("GenerateStream", request, context)
    generation.GenerateBatch = lambda request, context: fake.play("GenerateBatch", request, context)
    for method in ("Generate", "Score", "Tokenize", "Detokenize"):
        setattr(generation, method, fake.unary(method))
    models = models_pb2_grpc.ModelServiceServicer()
    models.ListModels, models.GetModel = fake.unary("ListModels"), fake.unary("GetModel")
    admin = admin_pb2_grpc.AdminServiceServicer()
    for method in admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods:
        setattr(admin, method.name, fake.unary(method.name))
    health = health_pb2_grpc.HealthServicer()
    health.Check = fake.unary("Check")
    server = grpc.server(executor)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    return server


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RHAPSODE_ADDRESS", raising=False)
    monkeypatch.delenv("RHAPSODE_ADMIN_ADDRESS", raising=False)
    monkeypatch.delenv("RHAPSODE_TIMEOUT", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server that streams and returns `Sea, sea!` and knows one model."""
    with _running() as fake:
        yield fake


@pytest.fixture
def another_server() -> Iterator[FakeServer]:
    """The same on another port."""
    with _running() as fake:
        yield fake


@contextmanager
def _running() -> Iterator[FakeServer]:
    fake = FakeServer(
        scripts={
            "Generate": [whole_completion()],
            "GenerateStream": stream_of("Sea", ", ", "sea!"),
            "Tokenize": [pb.TokenizeResponse(tokens=[pb.Token(id=5, piece="\u0120s\u00e9a", start=0, end=5)])],
            "Detokenize": [pb.DetokenizeResponse(text="s\u00e9a")],
            "ListModels": [models_pb2.ListModelsResponse(models=[served_model()])],
            "GetModel": [models_pb2.GetModelResponse(model=served_model())],
            "Check": [health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)],
            "GetStatus": [server_status()],
            "SetTraffic": [admin_pb2.SetTrafficResponse(status=model_status())],
            "ClearTraffic": [admin_pb2.ClearTrafficResponse(status=model_status())],
            "Promote": [admin_pb2.PromoteResponse(status=model_status())],
            "Pin": [admin_pb2.PinResponse(status=model_status())],
            "Rollback": [admin_pb2.RollbackResponse(status=model_status())],
            "LoadVersion": [admin_pb2.LoadVersionResponse(status=model_status())],
            "UnloadVersion": [admin_pb2.UnloadVersionResponse(status=model_status())],
            "Drain": [admin_pb2.DrainResponse(draining=True, open_calls=3)],
        }
    )
    with ThreadPoolExecutor(4) as executor:
        running = _serve(fake, executor)
        yield fake
        running.stop(None).wait()


class Awaitable:
    """A blocking client, or stream, behind the interface of its asyncio twin."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._blocking, name)
        if name in ("address", "started", "cancel"):
            return attribute
        if name in ("stream", "generate_batch", "generate_many"):
            return lambda *args, **options: Awaitable(attribute(*args, **options))
        return lambda *args, **options: asyncio.to_thread(attribute, *args, **options)

    def __aiter__(self) -> "Awaitable":
        return self

    async def __anext__(self) -> Any:
        delta = await asyncio.to_thread(next, self._blocking, None)
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def __aenter__(self) -> "Awaitable":
        self._blocking.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._blocking.__exit__(*error)


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Any:
    """Makes a client of either kind; call it within the event loop."""
    if request.param == "asyncio":
        return AsyncClient
    return lambda *args, **options: Awaitable(Client(*args, **options))


@pytest.fixture
async def client(connect: Any, server: FakeServer) -> AsyncIterator[Any]:
    """A client of either kind, connected to `server`."""
    async with connect(server.address) as client:
        yield client


def started(**fields: Any) -> pb.GenerateStreamResponse:
    answer = {"request_id": "r-1", "model": "poems", "version": 3, "seed": 2**64 - 1, "sampling": SAMPLING, **fields}
    return pb.GenerateStreamResponse(started=pb.Started(usage=pb.Usage(prompt_tokens=4), **answer))


def delta(text: str, *token_ids: int) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(delta=pb.Delta(text=text, token_ids=token_ids))


def finished() -> pb.GenerateStreamResponse:
    end = pb.Finished(finish_reason=pb.FINISH_REASON_STOP_STRING, usage=USAGE, timings=TIMINGS)
    end.matched_stop.stop_string = "END"
    return pb.GenerateStreamResponse(finished=end)


def stream_of(*texts: str) -> list[Step]:
    return [started(), *(delta(text, index) for index, text in enumerate(texts)), finished()]


def whole_completion() -> pb.GenerateResponse:
    return pb.GenerateResponse(
        request_id="r-1",
        model="poems",
        version=3,
        text="Sea, sea!",
        token_ids=[0, 1, 2],
        finish_reason=pb.FINISH_REASON_STOP_STRING,
        matched_stop=pb.MatchedStop(stop_string="END"),
        seed=2**64 - 1,
        sampling=SAMPLING,
        usage=USAGE,
        timings=TIMINGS,
    )


def served_model() -> models_pb2.Model:
    limits = models_pb2.Limits(context_length=256, vocabulary_size=2048, max_sequences=64, max_queued_requests=512)
    loaded = {"dtype": "float32", "device": "cpu", "parameter_count": 3_700_000, "limits": limits}
    return models_pb2.Model(
        name="poems",
        aliases={"champion": 2, "candidate": 3},
        traffic={2: 90, 1: 30},
        versions=[
            models_pb2.ModelVersion(
                version=2,
                state=models_pb2.VERSION_STATE_SERVING,
                evaluation=models_pb2.Evaluation(bits_per_byte=1.25, accepted=False),
                **loaded,
            ),
            models_pb2.ModelVersion(
                version=3, state=models_pb2.VERSION_STATE_QUARANTINED, reason="unsupported_architecture: [red]GPT-Neo"
            ),
        ],
    )


def model_status() -> admin_pb2.ModelAdminStatus:
    replica = {"version": 2, "device": "cpu", "waiting": 1, "running": 4}
    return admin_pb2.ModelAdminStatus(
        model=served_model(),
        traffic_source=admin_pb2.TRAFFIC_SOURCE_OVERRIDE,
        override=admin_pb2.TrafficOverride(
            weights={3: 10, 2: 90},
            until_fleet_decides=True,
            expires_at=Timestamp(seconds=1_800_000_000, nanos=500_000_000),
            reason="try [red]3",
        ),
        replicas=[
            admin_pb2.Replica(process_id=4711, ready=True, **replica),
            admin_pb2.Replica(restarts=2, **replica),
        ],
    )


def server_status() -> admin_pb2.GetStatusResponse:
    return admin_pb2.GetStatusResponse(
        server="node-7-50051",
        release="0.1.0",
        started_at=Timestamp(seconds=1_700_000_000),
        draining=True,
        open_calls=3,
        standby_ready=True,
        models=[model_status()],
        not_ready_because="the server is drained",
    )


SAMPLING = pb.SamplingParameters(temperature=0.8, top_k=0, top_p=0.95, seed=2**64 - 1)
USAGE = pb.Usage(prompt_tokens=4, cached_tokens=1, completion_tokens=3)
TIMINGS = pb.Timings(queue=Duration(nanos=1_000_000), first_token=Duration(nanos=20_000_000), total=Duration(seconds=1))


@pytest.fixture
def free_address() -> Iterator[str]:
    """An address at which nobody listens, held so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def failure() -> type[Failure]:
    """What a script holds to end a call with a status."""
    return Failure


@pytest.fixture(name="stream_of")
def _stream_of() -> Callable[..., list[Step]]:
    """Makes the script of a stream from its texts."""
    return stream_of

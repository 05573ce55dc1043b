"""What the engine and the models may raise, as callers see it; request ids; the log."""

import asyncio
import importlib
import json
import logging
import pkgutil
import re

import grpc
import grpc.aio
import pytest
import rhapsode_server
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_client import errors as client_errors
from rhapsode_server import errors
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.errors import OUTCOMES, status_of
from support.fake_models import TOKENIZER, FakeEngine, FakeModels

SECRET = "the weights are in /secret/place"


async def failure(stub: GenerationServiceStub, **fields: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(prompt="Sing", **fields))
    return caught.value


def detail(error: grpc.aio.AioRpcError, kind: type) -> object:
    status = Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    found = kind()
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    assert any(packed.Unpack(found) for packed in status.details)
    return found


def all_kinds() -> list[type[errors.ServingError]]:
    """Every error class there is, wherever it is defined."""
    for module in pkgutil.walk_packages(rhapsode_server.__path__, "rhapsode_server."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[errors.ServingError]] = []
    waiting = [errors.ServingError]
    while waiting:
        waiting += (subclasses := waiting.pop().__subclasses__())
        found += subclasses
    return found


def make(kind: type[errors.ServingError]) -> errors.ServingError:
    if issubclass(kind, errors.InvalidRequest):
        return kind([errors.FieldViolation("prompt", "is odd")])
    return kind("it is so", retry_after=2.5) if issubclass(kind, errors.TryAgain) else kind("it is so")


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_and_a_reason(kind: type[errors.ServingError]) -> None:
    assert kind in OUTCOMES, f"{kind.__module__}.{kind.__name__} has no row in the table of rpc/errors.py"
    status = status_of(make(kind), "r-1")
    info, found = ErrorInfo(), RequestInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("rhapsode", OUTCOMES[kind].reason)
    assert re.fullmatch("[A-Z][A-Z_]+[A-Z]", info.reason)
    assert status.details[-1].Unpack(found)
    assert found.request_id == "r-1"
    assert status.code == OUTCOMES[kind].code.value[0]
    assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details) == issubclass(kind, errors.TryAgain)
    assert any(detail.Is(BadRequest.DESCRIPTOR) for detail in status.details) == issubclass(kind, errors.InvalidRequest)


def test_the_module_draws_every_error() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in all_kinds() if kind.__name__ not in drawn] == []


def test_reasons_are_stable() -> None:
    """Callers program against them: a change here breaks them."""
    assert {kind.__name__: outcome.reason for kind, outcome in OUTCOMES.items()} == {
        "InvalidRequest": "INVALID_FIELD",
        "NotFound": "NOT_FOUND",
        "ModelNotFound": "MODEL_NOT_FOUND",
        "VersionNotFound": "VERSION_NOT_FOUND",
        "AliasNotFound": "ALIAS_NOT_FOUND",
        "NotPossible": "NOT_POSSIBLE",
        "Unauthenticated": "UNAUTHENTICATED",
        "PermissionDenied": "PERMISSION_DENIED",
        "NotFiniteLogits": "NOT_FINITE_LOGITS",
        "DeadlinePassed": "DEADLINE_PASSED",
        "TryAgain": "UNAVAILABLE",
        "LimitReached": "LIMIT_REACHED",
        "Overloaded": "QUEUE_FULL",
        "DeadlineUnreachable": "DEADLINE_UNREACHABLE",
        "Unavailable": "UNAVAILABLE",
        "NothingPublished": "NOTHING_PUBLISHED",
        "Loading": "LOADING",
        "Draining": "DRAINING",
        "Quarantined": "QUARANTINED",
        "WorkerLost": "WORKER_LOST",
    }


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.Overloaded("4 requests wait already", retry_after=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineUnreachable("it would begin too late", retry_after=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Loading("poems is loading", retry_after=2.5), grpc.StatusCode.UNAVAILABLE),
        (errors.WorkerLost("the engine process ended", retry_after=2.5), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_passing_conditions_say_when_to_try_again(
    stub: GenerationServiceStub, engine: FakeEngine, raised: Exception, code: grpc.StatusCode
) -> None:
    engine.failure = raised
    error = await failure(stub, request_id="r-1")
    assert (error.code(), error.details()) == (code, str(raised))
    assert detail(error, RetryInfo).retry_delay.ToMilliseconds() == 2500
    assert detail(error, RequestInfo).request_id == "r-1"


async def test_an_unknown_model_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(client_errors.NotFound, match="no model 'prose'; there is poems"):
        await client.generate("Sing", model="prose")
    with pytest.raises(client_errors.NotFound, match="no model 'pros\u00e9\U0001f600'"):
        await client.tokenize("Sing", model="pros\u00e9\U0001f600")
    with pytest.raises(client_errors.NotFound):
        await client.model("prose")


async def test_an_endless_name_comes_back_shortened(client: AsyncClient) -> None:
    with pytest.raises(client_errors.NotFound) as caught:
        await client.generate("Sing", model="x" * 100_000)
    assert len(str(caught.value)) < 1100


async def test_a_lost_worker_ends_the_stream_after_what_it_had_sent(client: AsyncClient, engine: FakeEngine) -> None:
    async with client.stream("Sing") as stream:
        request = await engine.arrival()
        request.says("O goddess")
        request.stream.fail(errors.WorkerLost("the engine process ended while the request ran"))
        assert (await anext(stream)).text == "O goddess"
        with pytest.raises(client_errors.Unavailable) as caught:
            await anext(stream)
    assert caught.value.retry_after == 1.0
    assert caught.value.request_id
    assert request.closed.is_set()


async def test_an_engine_that_gives_up_is_unavailable(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_generate([], FinishReason.CANCELLED)
    with pytest.raises(client_errors.Unavailable):
        await client.generate("Sing")


async def test_logits_that_are_not_finite_are_no_reason_to_retry(
    stub: GenerationServiceStub, engine: FakeEngine, metrics: Metrics
) -> None:
    engine.will_generate(TOKENIZER.encode("sea"), FinishReason.NOT_FINITE)
    error = await failure(stub)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the model produced logits that are not finite"
    assert isinstance(errors.NotFiniteLogits(), errors.ServingError)
    labels = {"model": "poems", "version": "3", "outcome": "error", "finish_reason": "not_finite"}
    assert metrics.registry.get_sample_value("rhapsode_requests_total", labels) == 1


async def test_a_bug_shows_nothing_of_the_inside(
    stub: GenerationServiceStub, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = RuntimeError(SECRET)
    error = await failure(stub, request_id="r-1")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error; the server's log has the details under request id r-1"
    assert SECRET not in str(error.trailing_metadata())
    assert SECRET not in str(error)
    assert detail(error, ErrorInfo).reason == "INTERNAL"
    assert detail(error, RequestInfo).request_id == "r-1"
    [record] = [record for record in caplog.records if record.exc_info]
    assert SECRET in str(record.exc_info[1])
    assert record.fields == {"request_id": "r-1"}


async def test_a_bug_in_the_middle_of_a_stream(client: AsyncClient, engine: FakeEngine) -> None:
    async with client.stream("Sing") as stream:
        request = await engine.arrival()
        request.says("O")
        assert (await anext(stream)).text == "O"
        request.stream.fail(RuntimeError(SECRET))
        with pytest.raises(client_errors.ServerError, match="internal error") as caught:
            await anext(stream)
    assert SECRET not in str(caught.value)
    assert request.closed.is_set()


@pytest.mark.parametrize(
    ("field", "header", "expected"),
    [
        ("r-1", "h-1", "r-1"),
        ("r-1", None, "r-1"),
        ("", "h-1", "h-1"),
        ("", "x" * 129, None),
        ("", None, None),
    ],
)
async def test_where_the_request_id_comes_from(
    stub: GenerationServiceStub, engine: FakeEngine, field: str, header: str | None, expected: str | None
) -> None:
    engine.will_say("sea")
    metadata = (("x-request-id", header),) if header else ()
    call = stub.Generate(pb.GenerateRequest(prompt="Sing", request_id=field), metadata=metadata)
    answer = await call
    assert dict(await call.initial_metadata())["x-request-id"] == answer.request_id
    assert answer.request_id == (expected or answer.request_id)
    assert 1 <= len(answer.request_id) <= 128


async def test_the_request_id_is_in_the_metadata_of_every_ending(
    stub: GenerationServiceStub, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    stream = stub.GenerateStream(pb.GenerateRequest(prompt="Sing", request_id="r-1"))
    assert dict(await stream.initial_metadata())["x-request-id"] == "r-1"
    assert len([event async for event in stream]) == 3
    tokens = stub.Tokenize(pb.TokenizeRequest(text="a"), metadata=(("x-request-id", "r-2"),))
    await tokens
    assert dict(await tokens.initial_metadata())["x-request-id"] == "r-2"
    error = await failure(stub, model="prose", request_id="r-3")
    assert dict(error.trailing_metadata() or ())["x-request-id"] == "r-3"


async def test_made_request_ids_differ(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_say("sea")
    answers = await asyncio.gather(*(client.generate("Sing") for _ in range(8)))
    assert len({answer.request_id for answer in answers}) == 8


async def test_one_line_in_the_log_for_each_request(
    client: AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rhapsode.rpc")
    engine.will_say("sea")
    await client.generate("Sing", request_id="r-1")
    with pytest.raises(client_errors.InvalidRequest):
        await client.generate("Sing", top_p=2, request_id="r-2")
    lines = [record.fields for record in caplog.records if record.message == "request"]
    good, bad = lines
    assert good["total_ms"] > 0
    assert good["peer"].startswith("ipv4:127.0.0.1:")
    del good["total_ms"], good["queue_ms"], good["first_token_ms"], good["peer"]
    assert good == {
        "request_id": "r-1",
        "method": "Generate",
        "outcome": "ok",
        "code": "OK",
        "model": "poems",
        "version": 3,
        "finish_reason": "length",
        "prompt_tokens": 4,
        "generated_tokens": 3,
    }
    assert (bad["request_id"], bad["outcome"], bad["code"]) == ("r-2", "invalid", "INVALID_ARGUMENT")
    assert bad["error"] == "sampling.top_p: must be above 0 and at most 1, not 2"
    assert json.dumps(lines)


@pytest.mark.parametrize(
    ("raised", "outcome", "model"),
    [
        (errors.NotFound("no"), "invalid", ""),
        (errors.Unavailable("no"), "unavailable", ""),
        (errors.Overloaded("no"), "overloaded", ""),
        (RuntimeError("no"), "error", ""),
    ],
)
async def test_requests_are_counted_by_outcome(
    stub: GenerationServiceStub, models: FakeModels, metrics: Metrics, raised: Exception, outcome: str, model: str
) -> None:
    models.failure = raised
    await failure(stub, model="made up by the caller")
    labels = {"model": model, "version": "", "outcome": outcome, "finish_reason": ""}
    assert metrics.registry.get_sample_value("rhapsode_requests_total", labels) == 1


async def test_calls_of_every_method_are_counted(
    stub: GenerationServiceStub, engine: FakeEngine, metrics: Metrics
) -> None:
    engine.will_say("sea")
    await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    await stub.Tokenize(pb.TokenizeRequest(text="Sing"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Score(pb.ScoreRequest())
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GenerateBatch(pb.GenerateBatchRequest()).read()
    for method, outcome in (("Generate", "ok"), ("Tokenize", "ok"), ("Score", "invalid"), ("GenerateBatch", "invalid")):
        labels = {"method": method, "outcome": outcome}
        assert metrics.registry.get_sample_value("rhapsode_calls_total", labels) == 1

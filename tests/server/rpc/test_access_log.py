"""The line that every call leaves in the log: its figures, and nothing of what was sent or answered."""

import asyncio
import logging
import threading
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2, models_pb2_grpc
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server.config import ServerConfig
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.rpc import prepare as preparing
from rhapsode_server.rpc.transcript import MAX_CHARACTERS
from rhapsode_server.text.chat import ChatTemplate
from support.fake_models import EOS, TOKENIZER, FakeEngine, FakeModels, Submitted
from support.logs import ServerLog

SECRET = "xyzzy"
FORGED = '1\n{"level": "INFO", "message": "request", "outcome": "ok"}\r\x1b[2J'


@pytest.fixture
def config(config: ServerConfig, server_log: ServerLog) -> ServerConfig:
    return replace(config, log_prompts=server_log.shows_content)


shown = pytest.mark.parametrize("server_log", [True], indirect=True)


def requests(log: ServerLog) -> list[dict[str, Any]]:
    return [line for line in log.lines if line["message"] == "request"]


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_its_fields(stub: GenerationServiceStub, engine: FakeEngine, server_log: ServerLog) -> None:
    def script(request: Submitted) -> None:
        request.stream.mark_started(0.0, num_cached_tokens=2)
        request.says("sea", FinishReason.LENGTH)

    engine.script = script
    await stub.Generate(pb.GenerateRequest(prompt="Sing"), metadata=(("x-request-id", "r-1"),))
    [line] = requests(server_log)
    figures = {name: line.pop(name) for name in ("queue_ms", "first_token_ms", "total_ms")}
    assert 0 <= figures["queue_ms"] <= figures["first_token_ms"] <= figures["total_ms"]
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    assert {name: line[name] for name in line.keys() - {"time", "level", "logger", "process", "message"}} == {
        "request_id": "r-1",
        "method": "Generate",
        "outcome": "ok",
        "code": "OK",
        "model": "poems",
        "version": 3,
        "finish_reason": "length",
        "prompt_tokens": 4,
        "cached_tokens": 2,
        "generated_tokens": 3,
    }


async def test_every_call_leaves_one_however_it_ends(
    stub: GenerationServiceStub, engine: FakeEngine, channel: grpc.aio.Channel, server_log: ServerLog
) -> None:
    engine.will_say("sea")
    await stub.Generate(pb.GenerateRequest(prompt="Sing"))
    await failure(stub.Generate(pb.GenerateRequest(prompt="Sing", model="prose")))
    engine.script = None
    await engine.arrival()
    stream = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    request = await engine.arrival()
    stream.cancel()
    await request.closed.wait()
    await failure(stub.Generate(pb.GenerateRequest(prompt="Sing"), timeout=0.01))
    await models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest())
    assert [(line["method"], line["outcome"], line["code"]) for line in requests(server_log)] == [
        ("Generate", "ok", "OK"),
        ("Generate", "invalid", "NOT_FOUND"),
        ("GenerateStream", "cancelled", "CANCELLED"),
        ("Generate", "deadline", "DEADLINE_EXCEEDED"),
        ("ListModels", "ok", "OK"),
    ]


async def test_lines_from_inside_a_call_carry_its_id(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine, server_log: ServerLog
) -> None:
    inner = logging.getLogger("some.library")

    def script(request: Submitted) -> None:
        inner.info("submitted")
        request.says("sea", FinishReason.LENGTH)

    def encode(text: str) -> list[int]:
        inner.info(threading.current_thread().name.partition("_")[0])
        return TOKENIZER.encode(text)

    engine.script = script
    models.change(tokenizer=Mock(wraps=TOKENIZER, encode=encode, max_token_bytes=None))
    await stub.Generate(pb.GenerateRequest(prompt="Sing " * 500, truncate_prompt=True, request_id="r-1"))
    inside = [line for line in server_log.lines if line["logger"] == "some.library"]
    assert [(line["message"], line["request_id"]) for line in inside] == [("asyncio", "r-1"), ("submitted", "r-1")]


@pytest.fixture
def hostile_stub(stub: GenerationServiceStub, models: FakeModels) -> GenerationServiceStub:
    """Its model's template, and its engine, quote what they are given."""
    template = ChatTemplate("{{ raise_exception('no turn ' + messages[0].content) }}", {})
    models.change(chat_template=template)

    def script(request: Submitted) -> None:
        if request.constraint:
            request.stream.end(FinishReason.BAD_CONSTRAINT, f"does not parse: {request.constraint.source}")
        else:
            request.says(SECRET, FinishReason.LENGTH)

    models.engine.script = script
    return stub


def told(text: str) -> list[pb.GenerateRequest]:
    """Requests that say `text`, good ones and bad ones."""
    sampling, stopping = pb.SamplingParameters, pb.StoppingCriteria
    messages = pb.Messages(messages=[pb.ChatMessage(role=text, content=text)])
    return [
        pb.GenerateRequest(prompt=text),
        pb.GenerateRequest(prompt=text * 100),
        pb.GenerateRequest(prompt=text, output=pb.OutputOptions(echo=True)),
        pb.GenerateRequest(prompt=text, sampling=sampling(banned_words=[text, ""])),
        pb.GenerateRequest(prompt=text, stopping=stopping(stop_strings=[text, ""])),
        pb.GenerateRequest(prompt=text, stopping=stopping(stop_strings=[text])),
        pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=TOKENIZER.encode(text))),
        pb.GenerateRequest(prompt="", constraint=pb.Constraint(regex=f"{text}(")),
        pb.GenerateRequest(prompt="", constraint=pb.Constraint(choices=pb.Choices(texts=[text, ""]))),
        pb.GenerateRequest(messages=messages),
    ]


async def say_it_everywhere(stub: GenerationServiceStub, text: str) -> None:
    calls = [stub.Generate(request) for request in told(text)]
    calls += [stub.Score(pb.ScoreRequest(text=text, overlap=10**6)), stub.Tokenize(pb.TokenizeRequest(text=text))]
    calls += [stub.Detokenize(pb.DetokenizeRequest(token_ids=pb.TokenIds(ids=TOKENIZER.encode(text))))]
    await asyncio.gather(*calls, return_exceptions=True)
    async for _ in stub.GenerateStream(pb.GenerateRequest(prompt=text)):
        pass
    items = [pb.GenerateBatchItem(request=request) for request in told(text)]
    async for _ in stub.GenerateBatch(pb.GenerateBatchRequest(items=items)):
        pass


async def test_nothing_that_is_sent_or_answered_is_in_the_log(
    hostile_stub: GenerationServiceStub, server_log: ServerLog
) -> None:
    await say_it_everywhere(hostile_stub, SECRET)
    ids = " ".join(map(str, TOKENIZER.encode(SECRET)))
    assert {line["outcome"] for line in requests(server_log)} == {"ok", "invalid"}
    assert len(requests(server_log)) == 15
    assert SECRET not in server_log.text
    assert ids not in server_log.text


@pytest.mark.parametrize("where", ["call", "item"])
async def test_a_bug_that_quotes_a_prompt_is_logged_without_it(
    stub: GenerationServiceStub, server_log: ServerLog, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def fails(prompt: Any, *_: Any, **__: Any) -> None:
        raise LookupError(prompt.text)

    monkeypatch.setattr(preparing, "prompt_token_ids", fails)
    request = pb.GenerateRequest(prompt=SECRET, request_id="r-1")
    if where == "call":
        await failure(stub.Generate(request))
    else:
        batch = pb.GenerateBatchRequest(items=[pb.GenerateBatchItem(request=request)], request_id="r-1")
        assert [answer.error.code async for answer in stub.GenerateBatch(batch)] == [13]
    [bug] = [line for line in server_log.lines if line["message"] == "unexpected failure"]
    assert bug["request_id"] == "r-1"
    assert "LookupError" in bug["traceback"]
    assert "in fails" in bug["traceback"]
    assert SECRET not in server_log.text


@shown
async def test_with_log_prompts_it_is_there(hostile_stub: GenerationServiceStub, server_log: ServerLog) -> None:
    await say_it_everywhere(hostile_stub, SECRET)
    lines = requests(server_log)
    said = [(line["prompt"], line["completion"]) for line in lines if line.get("completion")]
    assert said.count((SECRET, SECRET)) >= 2
    assert (SECRET, SECRET * 2) in said, "with its echo"
    [stream] = [line for line in lines if line["method"] == "GenerateStream"]
    assert (stream["prompt"], stream["completion"]) == (SECRET, SECRET)
    [batch] = [line for line in lines if line["method"] == "GenerateBatch"]
    assert batch["prompt"].startswith(f"{SECRET}\n{SECRET * 100}\n{SECRET}\n")
    assert batch["completion"].replace("\n", "") == SECRET * 4
    [tokenize] = [line for line in lines if line["method"] == "Tokenize"]
    assert tokenize["prompt"] == SECRET
    assert any(f"no turn {SECRET}" in line.get("error", "") for line in lines)
    assert any(f"does not parse: {SECRET}(" in line.get("error", "") for line in lines)
    assert any(line["prompt"] == f"{SECRET}: {SECRET}" for line in lines if "prompt" in line)


@shown
async def test_with_log_prompts_texts_are_cut(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine, server_log: ServerLog
) -> None:
    models.change(limits=replace(models.served.limits, context_length=20_000))
    engine.script = lambda request: request.generates([*TOKENIZER.encode("y" * 5000), EOS], FinishReason.STOP_TOKEN)
    request = pb.GenerateRequest(prompt="x" * 5000, stopping=pb.StoppingCriteria(max_new_tokens=6000))
    assert len((await stub.Generate(request)).text) == 5000
    [line] = requests(server_log)
    assert (line["prompt"], line["completion"]) == ("x" * MAX_CHARACTERS, "y" * MAX_CHARACTERS)


@shown
async def test_with_log_prompts_what_was_said_before_a_cancellation_is_there(
    stub: GenerationServiceStub, engine: FakeEngine, server_log: ServerLog
) -> None:
    stream = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    request = await engine.arrival()
    request.says("of the sea")
    while not (await stream.read()).delta.text:
        pass
    stream.cancel()
    await request.closed.wait()
    [line] = requests(server_log)
    assert (line["outcome"], line["completion"]) == ("cancelled", "of the sea")


@pytest.mark.parametrize("server_log", [False, True], indirect=True)
async def test_no_caller_can_write_a_line(
    stub: GenerationServiceStub, engine: FakeEngine, server_log: ServerLog
) -> None:
    engine.will_say(FORGED)
    calls = [
        stub.Generate(pb.GenerateRequest(prompt=FORGED)),
        stub.Generate(pb.GenerateRequest(prompt=FORGED, model=FORGED)),
        stub.Generate(pb.GenerateRequest(prompt=FORGED, alias=FORGED)),
        stub.Generate(pb.GenerateRequest(prompt=FORGED, request_id=FORGED)),
        stub.Generate(pb.GenerateRequest(prompt=FORGED), metadata=(("x-request-id", '", "outcome": "forged'),)),
        stub.Generate(pb.GenerateRequest(prompt=FORGED), metadata=(("x-traffic-key", '", "outcome": "forged'),)),
        stub.Generate(pb.GenerateRequest(prompt=FORGED, constraint=pb.Constraint(regex=FORGED))),
    ]
    await asyncio.gather(*calls, return_exceptions=True)
    lines = [line for line in server_log.lines if "request_id" in line]
    assert len(lines) == len(requests(server_log)) == len(calls)
    assert {line["outcome"] for line in lines} == {"ok", "invalid"}
    assert server_log.text.isascii()
    assert all(line.isprintable() for line in server_log.text.splitlines())

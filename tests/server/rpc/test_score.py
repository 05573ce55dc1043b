"""Score: how likely each token of a text is, in the windows of the trainer's evaluation."""

import asyncio
import math
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client.statuses import error_from
from rhapsode_server import errors
from rhapsode_server.engine.request import FinishReason, TokenScore
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import GenerationDefaults
from rhapsode_server.rpc.score import num_windows, windows
from rhapsode_server.rpc.server import Server
from rhapsode_trainer.evaluation.likelihood import split_windows
from support.fake_models import CONTEXT_LENGTH, EOS, PATIENCE, TOKENIZER, FakeEngine, FakeModels, Submitted

HALF = CONTEXT_LENGTH // 2


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def logprob_of(token_id: int, num_before: int) -> float:
    """Depends on the token and on how much it sees. Exact in single precision."""
    return -(token_id + num_before / 256)


def score_of(token_id: int, num_before: int, num_candidates: int) -> TokenScore:
    candidates = tuple((EOS, -0.5) for _ in range(num_candidates))
    return TokenScore(token_id, logprob_of(token_id, num_before), 2, candidates)


def script(request: Submitted) -> None:
    """As the engine does: scores of the prompt from `first_scored` on, then one of what it drew."""
    prompt = request.prompt_ids
    request.stream.mark_started(0.0)
    if request.prompt_top_logprobs is not None:
        request.scores(
            *(score_of(prompt[at], at, request.prompt_top_logprobs) for at in range(request.first_scored, len(prompt)))
        )
    [drawn] = request.sampling.allowed_token_ids
    assert (request.max_new_tokens, request.stop_token_ids) == (1, frozenset())
    assert request.top_logprobs is not None
    request.stream.push([drawn])
    request.stream.push_score(score_of(drawn, len(prompt), request.top_logprobs))
    request.stream.end(FinishReason.LENGTH)


async def score(stub: GenerationServiceStub, **fields: Any) -> pb.ScoreResponse:
    return await stub.Score(pb.ScoreRequest(**fields))


async def refusal(stub: GenerationServiceStub, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await score(stub, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(error_from(caught.value))


@given(length=st.integers(0, 300), context=st.integers(1, 70), data=st.data())
def test_the_windows_are_those_of_the_trainer(length: int, context: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, context - 1))
    ids = list(range(length))
    ours = [(window.ids, window.first) for window in windows(ids, context, overlap)]
    theirs = [(window.ids, window.first) for window in split_windows(0, ids, context, context - overlap)]
    assert ours == theirs
    assert num_windows(length, context, overlap) == max(1, len(ours))
    scored = [token_id for window_ids, first in ours for token_id in window_ids[first:]]
    assert scored == ids[1:]
    for window_ids, first in ours:
        assert len(window_ids) - 1 <= context
        assert first >= min(window_ids[first], overlap + 1)


async def test_a_text_token_by_token(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = script
    answer = await score(stub, text="s\u00e9a", request_id="s-1")
    ids = ids_of("s\u00e9a")
    assert (answer.request_id, answer.model, answer.version) == ("s-1", "poems", 3)
    assert [token.token_id for token in answer.tokens] == ids
    assert b"".join(token.text for token in answer.tokens) == "s\u00e9a".encode()
    assert not answer.tokens[0].HasField("logprob")
    expected = [logprob_of(token_id, at) for at, token_id in enumerate(ids)][1:]
    assert [token.logprob for token in answer.tokens[1:]] == expected
    assert [token.rank for token in answer.tokens] == [0, 2, 2, 2]
    assert answer.sum_logprob == sum(expected)
    assert answer.perplexity == pytest.approx(math.exp(-sum(expected) / 3))
    assert answer.timings.HasField("queue")
    assert not answer.timings.HasField("first_token"), "none is generated"
    same = await score(stub, token_ids=pb.TokenIds(ids=ids))
    assert same.tokens == answer.tokens


async def test_as_a_document_it_stands_between_end_tokens(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = script
    answer = await score(stub, text="sea", as_document=True)
    assert [token.token_id for token in answer.tokens] == [EOS, *ids_of("sea"), EOS]
    assert [token.HasField("logprob") for token in answer.tokens] == [False, True, True, True, True]
    assert [token.token_id for token in (await score(stub, text="", as_document=True)).tokens] == [EOS, EOS]


async def test_one_token_alone_has_no_likelihood(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    answer = await score(stub, text="a")
    assert len(answer.tokens) == 1
    assert (answer.sum_logprob, answer.HasField("perplexity"), engine.requests) == (0, False, [])


@pytest.mark.parametrize("overlap", [None, 0, 1, HALF, CONTEXT_LENGTH - 1])
@pytest.mark.parametrize("length", [2, CONTEXT_LENGTH, CONTEXT_LENGTH + 1, CONTEXT_LENGTH + 2, 300])
async def test_a_long_text_is_scored_in_windows(
    stub: GenerationServiceStub, engine: FakeEngine, overlap: int | None, length: int
) -> None:
    engine.script = script
    ids = [1 + at % 200 for at in range(length)]
    answer = await score(stub, token_ids=pb.TokenIds(ids=ids), overlap=overlap, top_logprobs=3)
    stride = CONTEXT_LENGTH - (HALF if overlap is None else overlap)
    expected = [
        logprob_of(token_id, at)
        for window in split_windows(0, ids, CONTEXT_LENGTH, stride)
        for at, token_id in list(enumerate(window.ids))[window.first :]
    ]
    assert [token.token_id for token in answer.tokens] == ids
    assert [token.logprob for token in answer.tokens[1:]] == expected
    assert {len(token.candidates) for token in answer.tokens[1:]} == {3}
    assert all(len(request.prompt_ids) <= CONTEXT_LENGTH for request in engine.requests)


async def test_candidates_only_if_asked_for(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = script
    assert not any(token.candidates for token in (await score(stub, text="sea")).tokens)
    assert (engine.requests[0].top_logprobs, engine.requests[0].prompt_top_logprobs) == (0, 0)


async def test_a_few_windows_at_a_time(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    running = asyncio.ensure_future(score(stub, token_ids=pb.TokenIds(ids=[1] * 20 * CONTEXT_LENGTH), overlap=0))
    answered = 0
    while answered < 20:
        requests = [await engine.arrival() for _ in range(min(4, 20 - answered))]
        assert len(engine.requests) == answered + len(requests)
        for request in reversed(requests):
            script(request)
        answered += len(requests)
    assert len((await running).tokens) == 20 * CONTEXT_LENGTH


@pytest.mark.parametrize("give_up", ["cancel", "deadline"])
async def test_who_gives_up_leaves_nothing_behind(
    server: Server, stub: GenerationServiceStub, engine: FakeEngine, give_up: str
) -> None:
    ids = pb.TokenIds(ids=[1] * 20 * CONTEXT_LENGTH)
    call = stub.Score(pb.ScoreRequest(token_ids=ids), timeout=1 if give_up == "deadline" else None)
    requests = [await engine.arrival() for _ in range(4)]
    assert (requests[0].deadline is not None) is (give_up == "deadline")
    if give_up == "cancel":
        call.cancel()
    async with asyncio.timeout(PATIENCE):
        for request in requests:
            await request.closed.wait()
        await server.rotation.calls_finished()
    assert (len(engine.requests), engine.num_holds) == (4, 0)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (FinishReason.NOT_FINITE, grpc.StatusCode.INTERNAL),
        (FinishReason.NOTHING_LEFT, grpc.StatusCode.INTERNAL),
        (FinishReason.EXPIRED, grpc.StatusCode.DEADLINE_EXCEEDED),
        (FinishReason.CANCELLED, grpc.StatusCode.UNAVAILABLE),
        (errors.WorkerLost("gone"), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_a_window_that_fails_fails_the_call(
    stub: GenerationServiceStub, engine: FakeEngine, end: FinishReason | Exception, code: grpc.StatusCode
) -> None:
    call = stub.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=[1] * 20 * CONTEXT_LENGTH)))
    requests = [await engine.arrival() for _ in range(4)]
    if isinstance(end, FinishReason):
        requests[1].stream.end(end)
    else:
        requests[1].stream.fail(end)
    script(requests[0])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code
    assert all(request.closed.is_set() for request in requests[2:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "text: is missing"),
        ({"text": ""}, "text: is empty"),
        ({"token_ids": pb.TokenIds()}, "token_ids: is empty"),
        ({"text": "a", "overlap": CONTEXT_LENGTH}, "overlap: must be below the context length, 64"),
        ({"text": "a", "overlap": 2**32 - 1}, "overlap: must be below"),
        (
            {"token_ids": pb.TokenIds(ids=[1] * 2**17), "overlap": CONTEXT_LENGTH - 1},
            "overlap: is too much for a text of 131072 tokens: its windows have 8384512, at most 2097152 may be",
        ),
        ({"text": "a", "top_logprobs": 21}, "top_logprobs: at most 20, not 21"),
        ({"text": "a", "request_id": "\n"}, "request_id: "),
        ({"token_ids": pb.TokenIds(ids=[1, 257])}, "token_ids.ids[1]: "),
        ({"text": "x" * (2**17 + 1)}, "text: at most 131072 tokens, not 131073"),
        ({"text": "x" * (2**17 - 1), "as_document": True}, "text: at most 131072 tokens, not 131073"),
        ({"text": "x" * 10_000, "top_logprobs": 20}, "text: at most 6241 tokens, not 10000"),
        ({"token_ids": pb.TokenIds(ids=[1] * (2**17 + 1))}, "token_ids.ids: at most 131072, not 131073"),
        ({"text": "x" * (2**20 + 1)}, "text: at most 1048576 bytes"),
    ],
)
async def test_what_is_wrong_is_named(
    stub: GenerationServiceStub, engine: FakeEngine, fields: dict[str, Any], message: str
) -> None:
    assert (await refusal(stub, **fields)).startswith(message)
    assert engine.requests == []


async def test_a_document_needs_an_end_token(stub: GenerationServiceStub, models: FakeModels) -> None:
    models.change(defaults=GenerationDefaults())
    assert await refusal(stub, text="a", as_document=True) == "as_document: poems has no end-of-sequence token"


async def test_its_tokens_are_counted(stub: GenerationServiceStub, engine: FakeEngine, metrics: Metrics) -> None:
    engine.script = script
    await score(stub, text="sea")
    labels = {"model": "poems", "version": "3"}
    assert metrics.registry.get_sample_value("rhapsode_prompt_tokens_total", labels) == 3

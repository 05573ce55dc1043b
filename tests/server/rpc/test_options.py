"""What requests ask for besides sampling: stops, time, logprobs, echo, post-processing, constraints, conversations."""

import json
import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client.statuses import error_from
from rhapsode_contract.postprocess import Pipeline
from rhapsode_server.engine.request import Constraint, FinishReason, TokenScore
from rhapsode_server.text.chat import ChatTemplate
from support.fake_models import CONTEXT_LENGTH, EOS, TOKENIZER, FakeEngine, FakeModels, Submitted

Stopping, Output = pb.StoppingCriteria, pb.OutputOptions


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)


async def generate(stub: GenerationServiceStub, **fields: Any) -> pb.GenerateResponse:
    return await stub.Generate(pb.GenerateRequest(**{"prompt": "Sing", **fields}))


async def events(stub: GenerationServiceStub, **fields: Any) -> list[pb.GenerateStreamResponse]:
    return [event async for event in stub.GenerateStream(pb.GenerateRequest(**{"prompt": "Sing", **fields}))]


async def deltas(stub: GenerationServiceStub, **fields: Any) -> list[pb.Delta]:
    return [event.delta for event in await events(stub, **fields) if event.HasField("delta")]


async def failure(stub: GenerationServiceStub, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(stub, **fields)
    return caught.value


def score_of(token_id: int, place: int = 0) -> TokenScore:
    return TokenScore(token_id, -0.5 * place, place + 1, ((token_id, -0.5), (EOS, -1.5)))


def with_scores(text: str, reason: FinishReason = FinishReason.LENGTH) -> Any:
    """A script: the prompt's scores, then a scored token for each character."""

    def script(request: Submitted) -> None:
        if request.prompt_top_logprobs is not None:
            request.scores(*(score_of(token_id) for token_id in request.prompt_ids[request.first_scored :]))
        for place, token_id in enumerate(ids_of(text)):
            request.stream.push([token_id])
            if request.top_logprobs is not None:
                request.stream.push_score(score_of(token_id, place))
        request.stream.end(reason)

    return script


async def test_everything_reaches_the_engine(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea")
    began = time.monotonic()
    request = pb.GenerateRequest(
        prompt="Sing",
        sampling=pb.SamplingParameters(banned_words=["sea"]),
        stopping=Stopping(
            max_new_tokens=9, min_new_tokens=3, stop_token_ids=[8], time_limit=Duration(seconds=2, nanos=500_000_000)
        ),
        output=Output(logprobs=True, prompt_logprobs=True, top_logprobs=4),
        priority=-7,
        constraint=pb.Constraint(regex="[a-z]+"),
    )
    await stub.Generate(request, timeout=60)
    [got] = engine.requests
    assert (got.max_new_tokens, got.min_new_tokens, got.stop_token_ids) == (9, 3, {EOS, 8})
    assert (got.top_logprobs, got.prompt_top_logprobs, got.priority, got.group) == (4, 4, -7, None)
    assert got.constraint == Constraint("regex", "[a-z]+")
    assert set(got.sampling.banned_sequences) == {tuple(ids_of("sea")), tuple(ids_of(" sea"))}
    assert got.deadline is not None
    assert got.ends_at is not None
    assert 2.5 <= got.ends_at - began < 12
    assert 50 < got.deadline - began < 61


async def test_without_a_deadline_there_is_none(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea")
    await generate(stub)
    [got] = engine.requests
    assert (got.deadline, got.ends_at, got.top_logprobs, got.prompt_top_logprobs) == (None, None, None, None)


async def test_min_new_tokens_is_cut_to_the_room_there_is(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea")
    await generate(stub, stopping=Stopping(max_new_tokens=1000, min_new_tokens=1000))
    assert engine.requests[0].min_new_tokens == CONTEXT_LENGTH - 4


@pytest.mark.parametrize(
    ("stopping", "tokens", "text", "reason"),
    [
        (Stopping(stop_strings=["END"]), "one END", "one END", pb.FINISH_REASON_STOP_STRING),
        (Stopping(stop_token_ids=ids_of(".")), "one.", "one.", pb.FINISH_REASON_STOP_TOKEN),
        (Stopping(stop_token_ids=ids_of("\u00e9")[1:]), "\u00e9", "\u00e9", pb.FINISH_REASON_STOP_TOKEN),
        (Stopping(stop_strings=["e.", "."], stop_token_ids=ids_of(".")), "one.", "one.", pb.FINISH_REASON_STOP_STRING),
    ],
)
async def test_the_stop_stays_if_asked(
    stub: GenerationServiceStub, engine: FakeEngine, stopping: Stopping, tokens: str, text: str, reason: int
) -> None:
    ended = FinishReason.STOP_TOKEN if stopping.stop_token_ids else FinishReason.LENGTH
    engine.will_say(tokens, ended)
    stopping.include_stop = True
    answer = await generate(stub, stopping=stopping)
    assert (answer.text, answer.finish_reason) == (text, reason)
    assert "".join(delta.text for delta in await deltas(stub, stopping=stopping)) == text


@pytest.mark.parametrize(("skips", "text"), [(True, "sea"), (False, "sea<|endoftext|>")])
async def test_an_end_token_that_stays_is_special_all_the_same(
    stub: GenerationServiceStub, engine: FakeEngine, skips: bool, text: str
) -> None:
    engine.will_generate([*ids_of("sea"), EOS], FinishReason.STOP_TOKEN)
    answer = await generate(stub, stopping=Stopping(include_stop=True), output=Output(skip_special_tokens=skips))
    assert (answer.text, answer.finish_reason) == (text, pb.FINISH_REASON_EOS)
    assert answer.matched_stop.token_id == EOS


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (FinishReason.TIME_LIMIT, pb.FINISH_REASON_TIME_LIMIT),
        (FinishReason.CONSTRAINT, pb.FINISH_REASON_EOS),
        (FinishReason.LENGTH, pb.FINISH_REASON_LENGTH),
    ],
)
@pytest.mark.parametrize("text", ["", "sea"])
async def test_ends_without_a_stop_bring_what_there_is(
    stub: GenerationServiceStub, engine: FakeEngine, reason: FinishReason, expected: int, text: str
) -> None:
    engine.will_say(text, reason)
    answer = await generate(stub)
    assert (answer.text, answer.finish_reason, answer.HasField("matched_stop")) == (text, expected, False)


async def test_a_deadline_that_passes_in_the_engine(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea", FinishReason.EXPIRED)
    assert (await failure(stub)).code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("constraint", "kind", "source"),
    [
        (pb.Constraint(json_schema='{"type": "object"}'), "json_schema", '{"type": "object"}'),
        (pb.Constraint(json_schema=""), "json_schema", ""),
        (pb.Constraint(regex="("), "regex", "("),
        (pb.Constraint(choices=pb.Choices(texts=["yes", "\u00e9"])), "choices", json.dumps(["yes", "\u00e9"])),
        (pb.Constraint(grammar="root ::= x"), "grammar", "root ::= x"),
    ],
)
async def test_a_bad_constraint_is_named(
    stub: GenerationServiceStub, engine: FakeEngine, constraint: pb.Constraint, kind: str, source: str
) -> None:
    engine.script = lambda request: request.stream.end(FinishReason.BAD_CONSTRAINT, "line 1: cannot be understood")
    error = await failure(stub, constraint=constraint)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == f"constraint.{kind}: line 1: cannot be understood"
    [got] = engine.requests
    assert got.constraint is not None
    assert got.constraint.kind == kind
    assert (
        got.constraint.source == source
        if kind != "choices"
        else json.loads(got.constraint.source) == json.loads(source)
    )


async def test_too_many_constraints_are_a_reason_to_come_again(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = lambda request: request.stream.end(FinishReason.CONSTRAINT_BUSY)
    error = await failure(stub, constraint=pb.Constraint(regex="a"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "too many constraints wait to be prepared; try again later"


async def test_parameters_that_leave_nothing_to_draw_are_the_callers(
    stub: GenerationServiceStub, engine: FakeEngine
) -> None:
    engine.will_say("sea", FinishReason.NOTHING_LEFT)
    error = await failure(stub, sampling=pb.SamplingParameters(allowed_token_ids=[5], banned_words=["a"]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("sampling: leaves no token to draw")


async def test_logprobs_come_with_text_rank_and_candidates(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = with_scores("s\u00e9")
    answer = await generate(stub, output=Output(logprobs=True, top_logprobs=2, token_ids=True))
    assert engine.requests[0].top_logprobs == 2
    assert [each.token_id for each in answer.logprobs] == list(answer.token_ids) == ids_of("s\u00e9")
    assert [each.logprob for each in answer.logprobs] == [0, -0.5, -1]
    assert [each.rank for each in answer.logprobs] == [1, 2, 3]
    assert b"".join(each.text for each in answer.logprobs) == "s\u00e9".encode()
    first = answer.logprobs[0].candidates
    assert [(each.token_id, each.logprob, each.text) for each in first] == [
        (ids_of("s")[0], -0.5, b"s"),
        (EOS, -1.5, b"<|endoftext|>"),
    ]
    assert not answer.prompt_logprobs


@pytest.mark.parametrize(
    ("stopping", "tokens", "reason", "num_tokens"),
    [
        (Stopping(stop_strings=["b"]), "abcd", FinishReason.LENGTH, 2),
        (Stopping(stop_strings=["bc"]), "abcd", FinishReason.LENGTH, 3),
        (Stopping(stop_token_ids=ids_of("d")), "abcd", FinishReason.STOP_TOKEN, 4),
    ],
)
async def test_logprobs_are_cut_at_the_stop_like_ids(
    stub: GenerationServiceStub,
    engine: FakeEngine,
    stopping: Stopping,
    tokens: str,
    reason: FinishReason,
    num_tokens: int,
) -> None:
    engine.script = with_scores(tokens, reason)
    answer = await generate(stub, stopping=stopping, output=Output(logprobs=True, token_ids=True))
    assert len(answer.logprobs) == len(answer.token_ids) == answer.usage.completion_tokens == num_tokens
    streamed = await deltas(stub, stopping=stopping, output=Output(logprobs=True, token_ids=True))
    assert [each for delta in streamed for each in delta.logprobs] == list(answer.logprobs)


async def test_prompt_logprobs_have_a_place_for_each_token(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = with_scores("sea")
    answer = await generate(stub, output=Output(prompt_logprobs=True))
    assert [each.token_id for each in answer.prompt_logprobs] == ids_of("Sing")
    assert [each.HasField("logprob") for each in answer.prompt_logprobs] == [False, True, True, True]
    assert answer.prompt_logprobs[0].rank == 0
    assert not answer.logprobs
    first, *rest = await deltas(stub, output=Output(prompt_logprobs=True, logprobs=True))
    assert (len(first.prompt_logprobs), first.text) == (1, "")
    assert sum(len(delta.prompt_logprobs) for delta in rest) == 3


async def test_the_prompt_of_one_token_is_scored_without_the_engine(
    stub: GenerationServiceStub, engine: FakeEngine
) -> None:
    answer = await generate(
        stub, prompt="a", stopping=Stopping(max_new_tokens=0), output=Output(prompt_logprobs=True, echo=True)
    )
    assert (answer.text, len(answer.prompt_logprobs), engine.requests) == ("a", 1, [])


async def test_cached_tokens_are_told(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    def script(request: Submitted) -> None:
        request.stream.mark_started(0.0, 3)
        request.says("sea", FinishReason.LENGTH)

    engine.script = script
    assert (await generate(stub)).usage.cached_tokens == 3


async def test_echo_begins_with_the_prompt(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say(" of the sea. And")
    stopping = Stopping(stop_strings=["Sing", "."])
    answer = await generate(stub, output=Output(echo=True), stopping=stopping)
    assert answer.text == "Sing of the sea"
    first, *_ = await deltas(stub, output=Output(echo=True), stopping=stopping)
    assert first.text == "Sing"
    assert answer.usage.prompt_tokens == 4


async def test_echo_joins_a_character_that_spans_both(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    ids = ids_of("a\U0001f600b")
    engine.will_generate(ids[3:], FinishReason.LENGTH)
    prompt = pb.TokenIds(ids=ids[:3])
    answer = await stub.Generate(pb.GenerateRequest(prompt_token_ids=prompt, output=Output(echo=True)))
    assert answer.text == "a\U0001f600b"


async def test_echo_shows_what_the_model_saw(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("!")
    long = "x" * 100 + "the end"
    stopping = Stopping(max_new_tokens=CONTEXT_LENGTH - 7)
    answer = await generate(stub, prompt=long, truncate_prompt=True, stopping=stopping, output=Output(echo=True))
    assert answer.text == "the end!"
    assert (await generate(stub, prompt="", output=Output(echo=True))).text == "!"
    shown = Output(echo=True, skip_special_tokens=False)
    assert (await generate(stub, prompt="", output=shown)).text == "<|endoftext|>!"


@pytest.mark.parametrize(
    ("asked", "kept"), [(0, CONTEXT_LENGTH), (20, CONTEXT_LENGTH - 20), (CONTEXT_LENGTH, 1), (2**32 - 1, 1)]
)
@pytest.mark.parametrize("as_ids", [False, True])
async def test_a_prompt_is_cut_at_its_beginning(
    stub: GenerationServiceStub, engine: FakeEngine, asked: int, kept: int, as_ids: bool
) -> None:
    engine.will_say("x", FinishReason.LENGTH)
    text = "".join(chr(ord("a") + place % 26) for place in range(200))
    given: dict[str, Any] = {"prompt_token_ids": pb.TokenIds(ids=ids_of(text))} if as_ids else {"prompt": text}
    request = pb.GenerateRequest(
        **given, truncate_prompt=True, stopping=Stopping(max_new_tokens=asked), output=Output(prompt_logprobs=True)
    )
    answer = await stub.Generate(request)
    assert answer.usage.prompt_tokens == kept
    if engine.requests:
        assert engine.requests[0].prompt_ids == tuple(ids_of(text)[-kept:])


async def test_a_prompt_that_fits_is_not_cut(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea")
    await generate(stub, truncate_prompt=True)
    assert engine.requests[0].prompt_ids == tuple(ids_of("Sing"))


PIPELINE = Pipeline(["whitespace", "last_sentence"])


async def test_postprocess_tidies_the_completion_alone(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    models.change(postprocess=PIPELINE)
    engine.script = with_scores("  the   sea.  And th")
    wanted = Output(postprocess=True, token_ids=True, logprobs=True)
    answer = await generate(stub, output=wanted)
    assert answer.text == " the sea."
    assert list(answer.token_ids) == ids_of("  the   sea.  And th")
    assert len(answer.logprobs) == len(answer.token_ids)
    *before, last = await deltas(stub, output=wanted)
    assert last.text == answer.text
    assert [delta.text for delta in before] == [""] * len(before)
    assert [token_id for delta in before for token_id in delta.token_ids] == ids_of("  the   sea.  And th")
    wanted.echo = True
    answer = await generate(stub, prompt="Sing   now", output=wanted)
    assert answer.text == "Sing   now the sea."
    assert [delta.text for delta in await deltas(stub, prompt="Sing   now", output=wanted) if delta.text] == [
        answer.text
    ]


async def test_without_a_pipeline_the_text_stays(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say(" the   sea")
    assert (await generate(stub, output=Output(postprocess=True))).text == " the   sea"
    assert (await generate(stub)).text == " the   sea"


CHAT = ChatTemplate(
    "{% for m in messages %}{% if m.role == 'thief' %}{{ raise_exception('no thieves') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bard]{% endif %}",
    {},
)


def talk(*turns: tuple[str, str]) -> pb.GenerateRequest:
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    return pb.GenerateRequest(messages=pb.Messages(messages=messages))


async def test_a_conversation_is_rendered_by_the_versions_template(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    models.change(chat_template=CHAT)
    engine.will_say("sea")
    await stub.Generate(talk(("user", "Sing")))
    assert engine.requests[0].prompt_ids == tuple(ids_of("[user]Sing[bard]"))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("thief", "Sing")], "messages: no thieves"),
        ([], "messages: is empty; give at least one message"),
        ([("user", "x")] * 1025, "messages: at most 1024 messages, not 1025"),
        ([("user", "x" * 2**20)], "messages: at most 1048576 bytes, not 1048"),
        ([("user", "x" * CONTEXT_LENGTH)], f"messages: has 76 tokens; the model's context has {CONTEXT_LENGTH}"),
    ],
)
async def test_what_is_wrong_with_a_conversation(
    stub: GenerationServiceStub, models: FakeModels, turns: Sequence[tuple[str, str]], message: str
) -> None:
    models.change(chat_template=CHAT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(talk(*turns))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(message)


async def test_the_answer_to_a_conversation_that_the_version_cannot_render(stub: GenerationServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(talk(("user", "Sing")))
    assert str(error_from(caught.value)) == "messages: version 3 of poems has no chat template"

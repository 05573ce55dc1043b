"""/v1/completions as OpenAI's own client sees it."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from rhapsode_server.engine.request import Constraint, FinishReason, TokenScore
from rhapsode_server.metrics import Metrics
from support.fake_models import EOS, TOKENIZER, FakeEngine, FakeModels, Submitted

FIRST, SECOND = TOKENIZER.encode("ab")


async def test_a_completion(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_say("the sea")
    answer = await openai.completions.create(model="poems", prompt="Sing", max_tokens=7, seed=5)
    [choice] = answer.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == ("the sea", 0, "length", None)
    assert (answer.object, answer.model) == ("text_completion", "poems@3")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 7, 11)
    assert choice.model_extra == {"seed": 5}


async def test_every_parameter_reaches_the_engine(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_say("sea")
    extra = {
        "top_k": 7,
        "min_p": 0.25,
        "typical_p": 0.5,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "ignore_eos": True,
    }
    await openai.completions.create(
        model="poems",
        prompt=TOKENIZER.encode("Sing"),
        max_tokens=9,
        temperature=0.5,
        top_p=0.75,
        presence_penalty=0.25,
        frequency_penalty=-1,
        seed=-1,
        logit_bias={"65": 5, "66": -100},
        logprobs=2,
        user="ada",
        extra_body=extra,
    )
    [got] = engine.requests
    sampling = got.sampling
    assert list(got.prompt_ids) == TOKENIZER.encode("Sing")
    assert (got.max_new_tokens, got.min_new_tokens, got.top_logprobs, got.stop_token_ids) == (9, 2, 2, frozenset())
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.75, 7)
    assert (sampling.min_p, sampling.typical_p, sampling.repetition_penalty) == (0.25, 0.5, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -1)
    assert sampling.seed == 2**64 - 1
    assert sampling.logit_bias == ((65, 5.0), (66, -100.0))


async def test_what_is_not_said_is_the_versions_and_the_servers(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_say("sea")
    nothing: dict[str, Any] = dict.fromkeys(("temperature", "n", "stop", "logit_bias", "stream", "logprobs", "user"))
    await openai.completions.create(model="", prompt="", extra_body=nothing)
    [got] = engine.requests
    assert (list(got.prompt_ids), got.max_new_tokens, got.sampling.temperature) == ([EOS], 20, 0.0)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("poems", ("poems", None, None)),
        ("poems@3", ("poems", 3, None)),
        ("poems:previous", ("poems", None, "previous")),
    ],
)
async def test_the_model_names_a_version_or_an_alias(
    openai: AsyncOpenAI, models: FakeModels, engine: FakeEngine, model: str, asked: tuple[Any, ...]
) -> None:
    engine.will_say("sea")
    await openai.completions.create(model=model, prompt="Sing")
    assert models.asked == [asked]


async def test_calls_of_one_user_go_to_one_version(openai: AsyncOpenAI, models: FakeModels, engine: FakeEngine) -> None:
    engine.will_say("sea")
    await openai.completions.create(model="poems", prompt="Sing", user="ada")
    await openai.completions.create(model="poems", prompt="Sing", user="ada", extra_headers={"X-Traffic-Key": "team"})
    await openai.completions.create(model="poems", prompt="Sing", extra_headers={"X-Request-Id": "r-7"})
    assert models.keys == ["ada", "team", "r-7"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (FinishReason.LENGTH, "length"),
        (FinishReason.TIME_LIMIT, "length"),
        (FinishReason.CONSTRAINT, "stop"),
    ],
)
async def test_how_it_ended(openai: AsyncOpenAI, engine: FakeEngine, reason: FinishReason, said: str) -> None:
    engine.will_say("sea", reason)
    answer = await openai.completions.create(model="poems", prompt="Sing")
    assert answer.choices[0].finish_reason == said


async def test_the_end_token_and_stops_are_stops(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_generate([FIRST, EOS], FinishReason.STOP_TOKEN)
    answer = await openai.completions.create(model="poems", prompt="Sing")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("a", "stop")
    engine.will_say("the sea, the stars")
    for stop in (", ", ["x", ", "]):
        answer = await openai.completions.create(model="poems", prompt="Sing", stop=stop)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("the sea", "stop")


async def test_many_prompts_with_many_completions_each(
    openai: AsyncOpenAI, engine: FakeEngine, metrics: Metrics, models: FakeModels
) -> None:
    engine.script = lambda request: request.says(
        f"{len(request.prompt_ids)}/{request.sampling.seed}", FinishReason.LENGTH
    )
    answer = await openai.completions.create(model="poems", prompt=["a", "bb"], n=2, seed=10)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "1/10"),
        (1, "1/11"),
        (2, "2/10"),
        (3, "2/11"),
    ]
    assert [choice.model_extra for choice in answer.choices] == [{"seed": 10}, {"seed": 11}] * 2
    assert answer.usage is not None
    # A prompt counts once, however many completions it has.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 16)
    assert answer.model == "poems@3"
    assert models.ends == ["ok"] * 4
    assert metrics.registry.get_sample_value("rhapsode_calls_total", {"method": "completions", "outcome": "ok"}) == 1
    assert {request.group is None for request in engine.requests} == {False}


async def test_prompts_of_token_ids(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_say("sea")
    answer = await openai.completions.create(model="poems", prompt=[[5, 6], [7]])
    assert len(answer.choices) == 2
    assert sorted(tuple(request.prompt_ids) for request in engine.requests) == [(5, 6), (7,)]


def scores(request: Submitted) -> None:
    """Two tokens, of which the second is half a character; and those of the prompt `xy`."""
    if request.prompt_top_logprobs is not None:
        request.scores(TokenScore(SECOND, -3.0, 2, ((FIRST, -0.25),)))
    half = TOKENIZER.encode("é")[0]
    for token, logprob in ((FIRST, -0.5), (half, float("-inf"))):
        request.stream.push_score(TokenScore(token, logprob, 2, ((SECOND, -0.125), (EOS, -2.0))))
    request.generates([FIRST, half], FinishReason.LENGTH)


async def test_log_probabilities(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = scores
    answer = await openai.completions.create(model="poems", prompt="ab", logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens == ["a", "bytes:\\xc3"]
    assert found.token_logprobs == [-0.5, -9999.0]
    assert found.top_logprobs == [
        {"b": -0.125, "<|endoftext|>": -2.0, "a": -0.5},
        {"b": -0.125, "<|endoftext|>": -2.0, "bytes:\\xc3": -9999.0},
    ]
    assert found.text_offset == [0, 1]


async def test_those_of_the_prompt_come_with_its_echo(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    """As evaluation harnesses ask for them."""
    engine.script = scores
    answer = await openai.completions.create(model="poems", prompt="ab", logprobs=1, echo=True, max_tokens=2)
    found = answer.choices[0].logprobs
    assert found is not None
    assert answer.choices[0].text.startswith("aba")
    assert found.tokens == ["a", "b", "a", "bytes:\\xc3"]
    assert found.token_logprobs == [None, -3.0, -0.5, -9999.0]
    assert found.top_logprobs is not None
    assert found.top_logprobs[:2] == [None, {"a": -0.25, "b": -3.0}]
    assert found.text_offset == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"const": None}}},
            {"const": None},
        ),
    ],
)
async def test_a_format_is_a_constraint(
    openai: AsyncOpenAI, engine: FakeEngine, response_format: dict[str, Any], schema: dict[str, Any] | None
) -> None:
    engine.will_say("{}")
    await openai.completions.create(model="poems", prompt="x", extra_body={"response_format": response_format})
    expected = None if schema is None else Constraint("json_schema", json.dumps(schema))
    assert engine.requests[0].constraint == expected

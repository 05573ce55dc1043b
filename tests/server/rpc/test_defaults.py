"""What happens where a caller leaves something open: a row of the table of defaults is a test here."""

import math
from typing import Any

import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.models.served import GenerationDefaults
from support.fake_models import CONTEXT_LENGTH, EOS, FakeEngine, FakeModels

Sampling, Stopping = pb.SamplingParameters, pb.StoppingCriteria

OFF = {
    "temperature": 0,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "typical_p": 1,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
VERSION = GenerationDefaults(
    temperature=0.75, top_k=40, top_p=0.5, min_p=0.25, typical_p=0.5, repetition_penalty=1.25, eos_token_ids=(EOS,)
)


async def generate(stub: GenerationServiceStub, **fields: Any) -> pb.GenerateResponse:
    return await stub.Generate(pb.GenerateRequest(**{"prompt": "Sing", **fields}))


def used(answer: pb.GenerateResponse) -> dict[str, Any]:
    """The effective parameters. None may be left out of an answer."""
    assert all(answer.sampling.HasField(name) for name in (*OFF, "seed"))
    return {name: getattr(answer.sampling, name) for name in OFF}


@pytest.mark.parametrize(
    ("asked", "given", "reason"),
    [
        (None, 20, "LENGTH"),
        (0, 0, "LENGTH"),
        (7, 7, "LENGTH"),
        (CONTEXT_LENGTH, CONTEXT_LENGTH - 4, "CONTEXT_FULL"),
        (2**32 - 1, CONTEXT_LENGTH - 4, "CONTEXT_FULL"),
    ],
    ids=["unset", "zero", "given", "beyond the context", "huge"],
)
async def test_max_new_tokens(
    stub: GenerationServiceStub, engine: FakeEngine, asked: int | None, given: int, reason: str
) -> None:
    engine.will_say("x" * given)
    answer = await generate(stub, stopping=Stopping(max_new_tokens=asked))
    assert [request.max_new_tokens for request in engine.requests] == ([given] if given else [])
    assert (answer.usage.completion_tokens, answer.finish_reason) == (
        given,
        pb.FinishReason.Value(f"FINISH_REASON_{reason}"),
    )


async def test_max_new_tokens_0_scores_the_prompt(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_generate([], FinishReason.LENGTH)
    await generate(stub, stopping=Stopping(max_new_tokens=0), output=pb.OutputOptions(prompt_logprobs=True))
    [request] = engine.requests
    assert (request.max_new_tokens, request.prompt_top_logprobs, request.first_scored) == (0, 0, 1)


async def test_sampling_unset_is_off(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea")
    assert used(await generate(stub)) == OFF
    assert not engine.requests[0].sampling.needs_history


async def test_sampling_unset_comes_from_the_version(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    models.change(defaults=VERSION)
    assert used(await generate(stub)) == OFF | {
        "temperature": 0.75,
        "top_k": 40,
        "top_p": 0.5,
        "min_p": 0.25,
        "typical_p": 0.5,
        "repetition_penalty": 1.25,
    }
    assert all(
        getattr(engine.requests[0].sampling, name) == getattr(VERSION, name) for name in OFF if hasattr(VERSION, name)
    )


async def test_what_is_set_goes_before_the_version(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    """Zero and off are values, not unset."""
    engine.will_say("sea")
    models.change(defaults=VERSION)
    assert used(await generate(stub, sampling=Sampling(**OFF))) == OFF
    given = {
        name: value + 0.25 if name not in ("top_p", "typical_p", "top_k") else value for name, value in OFF.items()
    }
    assert used(await generate(stub, sampling=Sampling(**given))) == given
    assert all(getattr(engine.requests[1].sampling, name) == value for name, value in given.items())


async def test_every_parameter_comes_back_and_gives_the_same_again(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    models.change(defaults=VERSION)
    asked = Sampling(
        logit_bias={5: -1.1, 3: 0.1}, allowed_token_ids=[9, 3, 9], banned_words=["ab"], presence_penalty=0.3
    )
    first = await generate(stub, sampling=asked)
    assert dict(first.sampling.logit_bias) == dict(asked.logit_bias)
    assert list(first.sampling.allowed_token_ids) == [9, 3, 9]
    assert list(first.sampling.banned_words) == ["ab"]
    models.change(defaults=GenerationDefaults())
    second = await generate(stub, sampling=first.sampling)
    assert second.sampling == first.sampling
    before, after = (request.sampling for request in engine.requests)
    assert before == after
    assert before.allowed_token_ids == (3, 9)
    assert [token_id for token_id, _ in before.logit_bias] == [3, 5]
    assert math.isclose(before.logit_bias[1][1], -1.1, rel_tol=1e-6)


async def test_a_seed_unset_is_drawn_and_returned(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.will_say("sea")
    answers = [await generate(stub) for _ in range(3)]
    seeds = [answer.seed for answer in answers]
    assert len(set(seeds)) == 3
    assert seeds == [request.sampling.seed for request in engine.requests] == [each.sampling.seed for each in answers]
    assert (await generate(stub, sampling=Sampling(seed=0))).seed == 0


async def test_an_empty_model_is_passed_on_as_such(
    stub: GenerationServiceStub, models: FakeModels, engine: FakeEngine
) -> None:
    """Which of several models answers is the registry's to say: its tests have the other rows."""
    engine.will_say("sea")
    assert (await generate(stub)).model == "poems"
    assert models.asked == [("", None, None)]

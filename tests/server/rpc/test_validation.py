"""Every way in which a request can be wrong is INVALID_ARGUMENT and names the field."""

import math
from collections.abc import Sequence
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_client.errors import InvalidRequest, RhapsodeError
from rhapsode_client.statuses import error_from
from rhapsode_server import errors
from rhapsode_server.models.served import GenerationDefaults
from rhapsode_server.rpc.prepare import prepare
from support.fake_models import CONTEXT_LENGTH, EOS, TOKENIZER, FakeEngine, FakeModels

Sampling, Stopping, Output, Constraint = (
    pb.SamplingParameters,
    pb.StoppingCriteria,
    pb.OutputOptions,
    pb.Constraint,
)


def conversation(*turns: tuple[str, str]) -> pb.Messages:
    return pb.Messages(messages=[pb.ChatMessage(role=role, content=content) for role, content in turns])


async def refusal(stub: GenerationServiceStub, **fields: Any) -> RhapsodeError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(**fields))
    return error_from(caught.value)


def fields_of(error: RhapsodeError) -> list[str]:
    assert isinstance(error, InvalidRequest), error
    return [violation.field for violation in error.violations]


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({}, ["prompt"]),
        ({"sampling": Sampling(temperature=-1)}, ["sampling.temperature"]),
        ({"sampling": Sampling(temperature=100.5)}, ["sampling.temperature"]),
        ({"sampling": Sampling(temperature=math.nan)}, ["sampling.temperature"]),
        ({"sampling": Sampling(temperature=math.inf)}, ["sampling.temperature"]),
        ({"sampling": Sampling(top_p=0)}, ["sampling.top_p"]),
        ({"sampling": Sampling(top_p=1.1)}, ["sampling.top_p"]),
        ({"sampling": Sampling(top_p=-0.5)}, ["sampling.top_p"]),
        ({"sampling": Sampling(top_p=math.nan)}, ["sampling.top_p"]),
        *(
            ({"sampling": Sampling(**{name: value})}, [f"sampling.{name}"])
            for name, values in {
                "min_p": (-0.1, 1.1, math.nan),
                "typical_p": (0, 1.1, math.nan),
                "repetition_penalty": (0, -1, 100.5, math.nan, math.inf),
                "presence_penalty": (-101, 101, math.nan, -math.inf),
                "frequency_penalty": (-101, 101, math.nan, math.inf),
            }.items()
            for value in values
        ),
        ({"sampling": Sampling(logit_bias={17: 101, 18: 5})}, ["sampling.logit_bias[17]"]),
        ({"sampling": Sampling(logit_bias={3: math.nan, 2: -math.inf})}, [f"sampling.logit_bias[{i}]" for i in (2, 3)]),
        ({"sampling": Sampling(logit_bias={257: 0})}, ["sampling.logit_bias[257]"]),
        ({"sampling": Sampling(logit_bias=dict.fromkeys(range(1025), 0.0))}, ["sampling.logit_bias"]),
        ({"sampling": Sampling(allowed_token_ids=[3, 257])}, ["sampling.allowed_token_ids[1]"]),
        ({"sampling": Sampling(allowed_token_ids=[1] * 258)}, ["sampling.allowed_token_ids"]),
        ({"sampling": Sampling(banned_words=["a"] * 129)}, ["sampling.banned_words"]),
        ({"sampling": Sampling(banned_words=["a", ""])}, ["sampling.banned_words[1]"]),
        ({"sampling": Sampling(banned_words=["a" * 65])}, ["sampling.banned_words[0]"]),
        (
            {
                "sampling": Sampling(allowed_token_ids=[EOS, 7]),
                "stopping": Stopping(min_new_tokens=1, stop_token_ids=[7]),
            },
            ["sampling.allowed_token_ids"],
        ),
        (
            {"sampling": Sampling(allowed_token_ids=TOKENIZER.encode("ab"), banned_words=["a", "b"])},
            ["sampling.allowed_token_ids"],
        ),
        ({"stopping": Stopping(min_new_tokens=21)}, ["stopping.min_new_tokens"]),
        ({"stopping": Stopping(min_new_tokens=3, max_new_tokens=2)}, ["stopping.min_new_tokens"]),
        *(
            ({"stopping": Stopping(time_limit=Duration(seconds=seconds, nanos=nanos))}, ["stopping.time_limit"])
            for seconds, nanos in ((0, 0), (-1, 0), (1, -1), (0, -5), (0, 10**9), (2**63 - 1, 0))
        ),
        ({"output": Output(top_logprobs=21, logprobs=True)}, ["output.top_logprobs"]),
        ({"output": Output(top_logprobs=1)}, ["output.top_logprobs"]),
        ({"priority": 101}, ["priority"]),
        ({"priority": -(2**31)}, ["priority"]),
        ({"constraint": Constraint()}, ["constraint"]),
        ({"constraint": Constraint(regex="a" * (2**16 + 1))}, ["constraint.regex"]),
        ({"constraint": Constraint(json_schema="\u00e9" * (2**15 + 1))}, ["constraint.json_schema"]),
        ({"constraint": Constraint(grammar="a" * (2**16 + 1))}, ["constraint.grammar"]),
        ({"constraint": Constraint(choices=pb.Choices())}, ["constraint.choices.texts"]),
        ({"constraint": Constraint(choices=pb.Choices(texts=["a", ""]))}, ["constraint.choices.texts[1]"]),
        ({"constraint": Constraint(choices=pb.Choices(texts=["a" * 2**16]))}, ["constraint.choices"]),
        ({"constraint": Constraint(choices=pb.Choices(texts=["\n" * 2**15]))}, ["constraint.choices"]),
        ({"constraint": Constraint(choices=pb.Choices(texts=[""] * 1025))}, ["constraint.choices.texts"]),
        (
            {"constraint": Constraint(choices=pb.Choices(texts=[""] * 1024))},
            [f"constraint.choices.texts[{index}]" for index in range(16)],
        ),
        ({"messages": conversation(("user", "hello"))}, ["messages"]),
        ({"prompt_token_ids": pb.TokenIds(ids=[1, 999]), "truncate_prompt": True}, ["prompt_token_ids.ids[1]"]),
        ({"prompt": "x" * (2**20 + 1)}, ["prompt"]),
        ({"prompt": "\u00e9" * (2**19 + 1), "truncate_prompt": True}, ["prompt"]),
        ({"stopping": Stopping(stop_strings=["a"] * 17)}, ["stopping.stop_strings"]),
        ({"stopping": Stopping(stop_strings=["a", "b", ""])}, ["stopping.stop_strings[2]"]),
        ({"stopping": Stopping(stop_strings=["\u00e9" * 257])}, ["stopping.stop_strings[0]"]),
        ({"stopping": Stopping(stop_token_ids=[1] * 65)}, ["stopping.stop_token_ids"]),
        ({"stopping": Stopping(stop_token_ids=[256, 257])}, ["stopping.stop_token_ids[1]"]),
        ({"prompt_token_ids": pb.TokenIds(ids=[1, 2, 2**32 - 1])}, ["prompt_token_ids.ids[2]"]),
        ({"prompt_token_ids": pb.TokenIds(ids=[1] * (CONTEXT_LENGTH + 1))}, ["prompt_token_ids"]),
        ({"request_id": "x" * 129}, ["request_id"]),
        ({"request_id": "line\nbreak"}, ["request_id"]),
        ({"request_id": "\u00e9"}, ["request_id"]),
        ({"prompt": "x" * (CONTEXT_LENGTH + 1)}, ["prompt"]),
        (
            {"sampling": Sampling(temperature=-1, top_p=2), "stopping": Stopping(stop_strings=[""])},
            ["prompt", "sampling.temperature", "sampling.top_p", "stopping.stop_strings[0]"],
        ),
    ],
)
async def test_each_field_at_fault_is_named(
    stub: GenerationServiceStub, engine: FakeEngine, fields: dict[str, Any], at_fault: Sequence[str]
) -> None:
    if "prompt" not in at_fault and not fields.keys() & {"prompt_token_ids", "messages"}:
        fields = {"prompt": "Sing", **fields}
    error = await refusal(stub, **fields)
    assert fields_of(error) == at_fault
    assert error.request_id
    assert engine.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": Sampling(temperature=0, top_p=1, top_k=2**32 - 1)},
        {"sampling": Sampling(temperature=100, top_p=1e-6)},
        {"sampling": Sampling(min_p=1, typical_p=1, repetition_penalty=100, presence_penalty=-100)},
        {"sampling": Sampling(logit_bias=dict.fromkeys(range(257), -100.0), frequency_penalty=100)},
        {"sampling": Sampling(allowed_token_ids=range(257), banned_words=["\U0001f600" * 64] * 128)},
        {"stopping": Stopping(min_new_tokens=2**32 - 1, max_new_tokens=2**32 - 1)},
        {"stopping": Stopping(time_limit=Duration(nanos=1))},
        {"stopping": Stopping(time_limit=Duration(seconds=315_576_000_000))},
        {"output": Output(top_logprobs=20, prompt_logprobs=True)},
        {"priority": -100},
        {"constraint": Constraint(regex="a" * 2**16)},
        {"prompt": "x" * 1000, "truncate_prompt": True},
        {"stopping": Stopping(stop_strings=["\U0001f600" * 256] * 16, stop_token_ids=[256] * 64)},
        {"request_id": "~ " * 64},
        {"prompt": "x" * CONTEXT_LENGTH},
        {"prompt": "\0"},
        {"prompt": "\u0627\u0301\U0001f468\u200d\U0001f469"},
        {"prompt_token_ids": pb.TokenIds(ids=[256] * CONTEXT_LENGTH)},
    ],
)
async def test_the_limits_themselves_are_allowed(
    stub: GenerationServiceStub, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    engine.will_say("sea")
    if "prompt_token_ids" not in fields:
        fields = {"prompt": "Sing", **fields}
    answer = await stub.Generate(pb.GenerateRequest(**fields))
    assert answer.text in ("sea", "")


async def test_a_prompt_that_does_not_fit_gives_both_numbers(stub: GenerationServiceStub) -> None:
    error = await refusal(stub, prompt="x" * 65)
    assert str(error) == "prompt: has 65 tokens; the model's context has 64"
    error = await refusal(stub, prompt_token_ids=pb.TokenIds(ids=[1] * 99))
    assert str(error) == "prompt_token_ids: has 99 tokens; the model's context has 64"
    error = await refusal(stub, prompt_token_ids=pb.TokenIds(ids=[1] * (2**20 + 1)), truncate_prompt=True)
    assert str(error) == "prompt_token_ids: at most 1048576 ids, not 1048577"


class CountingTokenizer:
    """Counts what it is asked to tokenise: a token for each character. Says nothing of the bytes in a token."""

    max_token_bytes: int | None = None

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def encode(self, text: str) -> list[int]:
        self.lengths.append(len(text))
        return [1] * len(text)


async def test_hopelessly_long_texts_are_not_tokenised(stub: GenerationServiceStub, models: FakeModels) -> None:
    tokenizer = CountingTokenizer()
    models.change(tokenizer=tokenizer)
    error = await refusal(stub, prompt="x" * 1_000_000)
    assert str(error) == "prompt: has 1000000 tokens; the model's context has 64"
    tokenizer.max_token_bytes = 10
    error = await refusal(stub, prompt="x" * 1_000_000)
    assert str(error) == "prompt: has at least 100000 tokens; the model's context has 64"
    assert tokenizer.lengths == [1_000_000]


@pytest.mark.parametrize("field", ["prompt", "prompt_token_ids"])
async def test_an_empty_prompt_without_a_token_to_start_from(
    stub: GenerationServiceStub, models: FakeModels, field: str
) -> None:
    models.change(defaults=GenerationDefaults())
    error = await refusal(stub, **({"prompt": ""} if field == "prompt" else {"prompt_token_ids": pb.TokenIds()}))
    assert fields_of(error) == [field]


async def test_tokenize_and_detokenize_bound_what_they_take(client: AsyncClient) -> None:
    for call, field in [
        (client.tokenize("x" * (2**20 + 1)), "text"),
        (client.detokenize([1] * (2**16 + 1)), "token_ids"),
        (client.detokenize([1, 257]), "token_ids.ids[1]"),
    ]:
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert fields_of(caught.value) == [field]


async def test_what_is_not_a_message_is_the_callers_error(channel: grpc.aio.Channel) -> None:
    raw = channel.unary_unary("/rhapsode.v1.GenerationService/Generate")
    # Field 4, the prompt, holds a byte that is not UTF-8; then a length that runs past the end.
    for data in (b"\x22\x01\xff", b"\x22\x7f"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(data)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields_of(error_from(caught.value)) == ["request"]


async def test_the_details_of_the_worst_request_still_travel(stub: GenerationServiceStub) -> None:
    error = await refusal(
        stub,
        model="poems",
        sampling=Sampling(temperature=-1, top_p=2),
        stopping=Stopping(stop_strings=[""] * 100, stop_token_ids=[2**32 - 1] * 100),
        request_id="\n" * 1000,
    )
    assert len(fields_of(error)) == 16


single = st.none() | st.floats(width=32)
ids = st.lists(st.integers(0, 300), max_size=66)
requests = st.builds(
    pb.GenerateRequest,
    prompt=st.text(max_size=8),
    sampling=st.builds(
        Sampling,
        temperature=single,
        top_k=st.none() | st.integers(0, 2**32 - 1),
        top_p=single,
        min_p=single,
        typical_p=single,
        repetition_penalty=single,
        presence_penalty=single,
        frequency_penalty=single,
        seed=st.none() | st.integers(0, 2**64 - 1),
        logit_bias=st.dictionaries(st.integers(0, 300), st.floats(width=32), max_size=3),
        allowed_token_ids=st.just([]) | ids,
        banned_words=st.lists(st.text(max_size=3), max_size=3),
    ),
    stopping=st.builds(
        Stopping,
        max_new_tokens=st.none() | st.integers(0, 2**32 - 1),
        min_new_tokens=st.just(0) | st.integers(0, 2**32 - 1),
        stop_strings=st.lists(st.text(max_size=3), max_size=18),
        stop_token_ids=ids,
        time_limit=st.none() | st.builds(Duration, seconds=st.integers(-2, 2**63 - 1), nanos=st.integers(-1, 10**9)),
    ),
    output=st.builds(Output, logprobs=st.booleans(), top_logprobs=st.integers(0, 30)),
    priority=st.integers(-(2**31), 2**31 - 1),
    truncate_prompt=st.booleans(),
)


@given(requests)
async def test_what_is_accepted_is_in_range(message: pb.GenerateRequest) -> None:
    version = FakeModels().served
    try:
        prepared = await prepare(message, version, 20)
    except errors.InvalidRequest:
        return
    sampling, stopping = prepared.parameters, prepared.request.stopping
    assert 0 <= sampling.temperature <= 100
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.min_p <= 1
    assert 0 < sampling.typical_p <= 1
    assert 0 < sampling.repetition_penalty <= 100
    assert -100 <= sampling.presence_penalty <= 100
    assert -100 <= sampling.frequency_penalty <= 100
    assert 0 <= sampling.seed < 2**64
    assert all(0 <= token_id < 257 and -100 <= bias <= 100 for token_id, bias in sampling.logit_bias)
    assert all(0 <= token_id < 257 for token_id in (*sampling.allowed_token_ids, *stopping.all_token_ids))
    assert all(sampling.banned_sequences)
    assert stopping.min_new_tokens <= stopping.max_new_tokens
    assert stopping.time_limit is None or 0 < stopping.time_limit < math.inf
    assert len(prepared.prompt_ids) + prepared.max_new_tokens <= CONTEXT_LENGTH
    assert len(stopping.stop_strings) <= 16
    assert all(1 <= len(stop) <= 256 for stop in stopping.stop_strings)

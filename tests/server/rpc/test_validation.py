"""Every way in which a request can be wrong is INVALID_ARGUMENT and names the field."""

import math
from collections.abc import Sequence
from typing import Any

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_client.errors import InvalidRequest, RhapsodeError
from rhapsode_client.statuses import error_from
from rhapsode_server import errors
from rhapsode_server.models.served import GenerationDefaults
from rhapsode_server.rpc.convert import generation_request
from support.fake_models import CONTEXT_LENGTH, FakeEngine, FakeModels

Sampling, Stopping = pb.SamplingParameters, pb.StoppingCriteria


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
    if "prompt" not in at_fault and "prompt_token_ids" not in fields:
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
        (client.detokenize([1] * (2**20 + 1)), "token_ids"),
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


requests = st.builds(
    pb.GenerateRequest,
    prompt=st.text(max_size=8),
    sampling=st.builds(
        Sampling,
        temperature=st.none() | st.floats(width=32),
        top_k=st.none() | st.integers(0, 2**32 - 1),
        top_p=st.none() | st.floats(width=32),
        seed=st.none() | st.integers(0, 2**64 - 1),
    ),
    stopping=st.builds(
        Stopping,
        max_new_tokens=st.none() | st.integers(0, 2**32 - 1),
        stop_strings=st.lists(st.text(max_size=3), max_size=18),
        stop_token_ids=st.lists(st.integers(0, 300), max_size=66),
    ),
)


@given(requests)
def test_what_is_accepted_is_in_range(message: pb.GenerateRequest) -> None:
    version = FakeModels().served
    try:
        request = generation_request(message, version, 20)
    except errors.InvalidRequest:
        return
    sampling = request.sampling
    assert 0 <= sampling.temperature <= 100
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.seed < 2**64
    assert len(request.stop_strings) <= 16
    assert all(1 <= len(stop) <= 256 for stop in request.stop_strings)
    assert all(token_id < version.limits.vocabulary_size for token_id in request.stop_token_ids)

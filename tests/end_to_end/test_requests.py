"""Odd and wrong requests: the right status with the field named, and the server unharmed."""

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rhapsode_client import AsyncClient, InvalidRequest, NotFound
from support.reference import generate_greedily

from .conftest import Serving

ODD_TEXTS = {
    "emoji": "🎻👩‍👩‍👧‍👦 the sea 🌊",
    "combining": "e\u0301\u0301\u0323 Z\u0351\u036b\u0343 sea",
    "right to left": "שלום עולם مرحبا \u202eabc\u202c",
    "nuls": "a\x00b\x00\x00c",
    "only spaces": " \n\t ",
    "empty": "",
}


@pytest.fixture(autouse=True)
async def unharmed(serving: Serving, client: AsyncClient) -> AsyncIterator[None]:
    """After each of these, the server answers as ever, and holds on to nothing."""
    yield
    prompt = [7, 8, 9]
    completion = await client.generate(prompt, temperature=0, max_new_tokens=8, token_ids=True)
    assert list(completion.token_ids) == generate_greedily(serving.models["gpt2"], prompt, 8)
    await serving.engine_lets_go()


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
async def test_odd_prompts_are_served(client: AsyncClient, text: str) -> None:
    unary = await client.generate(text, seed=3, temperature=1.0, max_new_tokens=40)
    assert unary.usage.prompt_tokens >= 1
    assert unary.usage.completion_tokens >= 1
    async with client.stream(text, seed=3, temperature=1.0, max_new_tokens=40) as stream:
        deltas = [delta.text async for delta in stream]
    assert "".join(deltas) == unary.text


async def test_an_empty_prompt_starts_at_the_beginning_of_a_text(serving: Serving, client: AsyncClient) -> None:
    completion = await client.generate("", temperature=0, max_new_tokens=10, token_ids=True)
    assert list(completion.token_ids) == generate_greedily(serving.models["gpt2"], [0], 10)


@pytest.mark.parametrize("max_new_tokens", [1025, 2**32 - 1])
async def test_a_huge_max_new_tokens_is_clamped(client: AsyncClient, max_new_tokens: int) -> None:
    completion = await client.generate([5] * 1000, max_new_tokens=max_new_tokens, ignore_eos=True)
    assert completion.usage.completion_tokens == 24
    assert completion.finish_reason == "context_full"


async def test_max_new_tokens_0_generates_nothing(client: AsyncClient) -> None:
    completion = await client.generate("the sea", max_new_tokens=0)
    assert (completion.text, completion.usage.completion_tokens, completion.finish_reason) == ("", 0, "length")


async def test_a_stop_string_ends_the_text_before_it(client: AsyncClient) -> None:
    whole = await client.generate("the sea", seed=1, temperature=1.0, max_new_tokens=60)
    stop = whole.text[10:13]
    stopped = await client.generate("the sea", seed=1, temperature=1.0, max_new_tokens=60, stop=[stop, "no such text"])
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert (stopped.finish_reason, stopped.matched_stop) == ("stop_string", stop)
    assert stopped.usage.completion_tokens < whole.usage.completion_tokens


@pytest.mark.parametrize(
    ("prompt", "arguments", "field"),
    [
        ([5] * 1025, {}, "prompt_token_ids"),
        ("sea " * 3000, {}, "prompt"),
        ("sea " * 250_000, {}, "prompt"),
        ([5, 320], {}, "prompt_token_ids.ids[1]"),
        ("a", {"temperature": -0.1}, "sampling.temperature"),
        ("a", {"temperature": math.nan}, "sampling.temperature"),
        ("a", {"temperature": math.inf}, "sampling.temperature"),
        ("a", {"top_p": 0.0}, "sampling.top_p"),
        ("a", {"top_p": math.nan}, "sampling.top_p"),
        ("a", {"stop": ["ok", ""]}, "stopping.stop_strings[1]"),
        ("a", {"stop_token_ids": [9999]}, "stopping.stop_token_ids[0]"),
    ],
)
async def test_what_is_wrong_is_named(
    client: AsyncClient, prompt: str | list[int], arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        await client.generate(prompt, **arguments)
    assert [violation.field for violation in error.value.violations] == [field]
    assert error.value.request_id


async def test_what_is_not_there_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFound, match="no model 'odes'; there is gpt2, llama"):
        await client.generate("a", model="odes")
    with pytest.raises(NotFound, match="no alias 'blue'"):
        await client.generate("a", alias="blue")
    with pytest.raises(NotFound, match="version 9 of gpt2 is not served"):
        await client.generate("a", version=9)


async def test_tokenize_and_back(client: AsyncClient) -> None:
    text = "the sea 🌊"
    tokens = await client.tokenize(text)
    assert text.encode()[tokens[0].start : tokens[-1].end] == text.encode()
    assert await client.detokenize([token.id for token in tokens]) == text


async def test_models_tell_what_is_served(client: AsyncClient) -> None:
    models = await client.models()
    assert [model.name for model in models] == ["gpt2", "llama"]
    assert models[0].aliases == {"champion": 1}
    [version] = models[0].versions
    assert (version.state, version.dtype, version.device) == ("serving", "float32", "cpu")
    assert version.limits is not None
    assert version.limits.context_length == 1024

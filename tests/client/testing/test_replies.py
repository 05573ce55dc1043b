"""Generated text, as it was scripted."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1.generation_pb2 import GenerateRequest
from rhapsode_client import AsyncClient, ChatMessage, FailedPrecondition, FinishReason, NotFound
from rhapsode_client.requests import generate_request
from rhapsode_client.testing.script import Reply, Script
from rhapsode_client.testing.words import split


def test_a_completion_is_what_was_scripted(server, client):
    server.reply(" and the stars", finish_reason=FinishReason.LENGTH)
    completion = client.generate("The sea", seed=7, temperature=0.5, token_ids=True, request_id="r-1")
    assert completion.text == " and the stars"
    assert completion.finish_reason is FinishReason.LENGTH
    assert (completion.model, completion.version) == ("poems", 3)
    assert (completion.seed, completion.sampling.seed, completion.sampling.temperature) == (7, 7, 0.5)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (2, 3)
    assert completion.request_id == "r-1"
    assert client.detokenize(completion.token_ids) == " and the stars"


def test_a_stream_has_a_delta_a_word_and_the_same_completion(server, client):
    server.reply(" and the stars")
    with client.stream("The sea", token_ids=True, logprobs=True) as stream:
        deltas = list(stream)
        streamed = stream.result()
    assert [delta.text for delta in deltas] == [" and", " the", " stars"]
    whole = client.generate("The sea", token_ids=True, logprobs=True)
    for field in ("text", "token_ids", "logprobs", "finish_reason", "usage", "seed", "model", "version"):
        assert getattr(streamed, field) == getattr(whole, field), field


async def test_the_asyncio_client_reads_the_same(server):
    server.reply(["a ", "b"])
    async with AsyncClient(server.address) as client:
        async with client.stream("The sea") as stream:
            assert [delta.text async for delta in stream] == ["a ", "b"]
            assert stream.started.model == "poems"
        assert (await client.generate("The sea")).text == "a b"


def test_prompts_of_every_kind_are_told_apart(server, client):
    server.reply("text", prompt="The sea")
    server.reply("ids", prompt=[1, 2])
    server.reply("chat", prompt=[ChatMessage("user", "Hello")])
    server.reply("pattern", prompt=re.compile("moon$"))
    server.reply("any")
    assert client.generate("The sea").text == "text"
    assert client.generate([1, 2]).text == "ids"
    assert client.generate([{"role": "user", "content": "Hello"}]).text == "chat"
    assert client.generate([ChatMessage("user", "The moon")]).text == "pattern"
    assert client.generate("the moon").text == "pattern"
    assert client.generate("").text == "any"


def test_replies_are_used_in_order_and_the_last_again_and_again(server, client):
    for text in ("one", "two"):
        server.reply(text)
    assert [client.generate("The sea").text for _ in range(4)] == ["one", "two", "two", "two"]


def test_a_reply_for_the_prompt_goes_before_one_for_any(server, client):
    server.reply("any")
    server.reply("this", prompt="The sea")
    assert client.generate("The sea").text == "this"
    assert client.generate("The moon").text == "any"


def test_what_is_not_scripted_says_what_to_do(client):
    with pytest.raises(FailedPrecondition, match=r"'The sea': say FakeServer\.reply"):
        client.generate("The sea")
    with pytest.raises(FailedPrecondition, match=r"\[5, 6\]"):
        client.stream([5, 6]).result()


def test_models_answer_with_their_versions(server, client):
    server.reply("text")
    assert client.generate("The sea", model="stories").version == 1
    server.models["stories"] = 2
    assert client.generate("The sea", model="stories").version == 2
    assert client.generate("The sea", version=9).version == 9
    with pytest.raises(NotFound, match=r"no model 'novels'; there are poems, stories"):
        client.generate("The sea", model="novels")


def test_delays_are_seconds_from_zero(server):
    with pytest.raises(ValueError, match="token_delay must be a number of seconds from 0, not -1"):
        server.reply("text", token_delay=-1)
    with pytest.raises(ValueError, match="delay must be a number of seconds from 0, not nan"):
        server.reply("text", delay=float("nan"))


def test_delays_show_in_the_timings(server, client):
    server.reply("a b", delay=0.02, token_delay=0.01)
    with client.stream("The sea") as stream:
        streamed = stream.result()
    for timings in (streamed.timings, client.generate("The sea").timings):
        assert timings.first_token >= 0.03
        assert timings.total >= timings.first_token + 0.01


@given(st.text())
def test_the_words_of_a_text_make_it_up(text):
    assert "".join(split(text)) == text
    assert all(split(text))


@given(st.lists(st.sampled_from(["sea", "moon", None])), st.lists(st.sampled_from(["sea", "moon"])))
def test_a_script_is_a_queue_for_each_prompt_with_one_for_any_behind(prompts, asked):
    script = Script()
    for index, prompt in enumerate(prompts):
        script.add(prompt, Reply(tokens=[str(index)]))
    queues = {name: [index for index, each in enumerate(prompts) if each == name] for name in ("sea", "moon", None)}
    for prompt in asked:
        queue = queues[prompt] or queues[None]
        reply = script.reply_to(generate_request(prompt))
        assert (reply.error is not None) is (not queue)
        if queue:
            assert reply.tokens == [str(queue[0])]
            del queue[: len(queue) > 1]


def test_a_request_without_input_has_the_empty_prompt():
    script = Script()
    script.add("", Reply(tokens=["a"]))
    assert script.reply_to(GenerateRequest()).tokens == ["a"]

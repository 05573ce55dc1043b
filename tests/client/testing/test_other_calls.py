"""What is not generation: scores, tokens, models, health, and what was asked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_client import BatchItem, Client, Overloaded, VersionState
from rhapsode_client.testing import FakeServer
from rhapsode_client.testing.words import Vocabulary


def test_scores_are_those_that_were_given(server, client):
    server.logprobs[" sea"] = -3.0
    score = client.score("The sea is", top_logprobs=1)
    assert [token.logprob for token in score.tokens] == [None, -3.0, -1.0]
    assert [token.text for token in score.tokens] == [b"The", b" sea", b" is"]
    assert score.tokens[1].candidates[0].logprob == -3.0
    assert score.sum_logprob == -4.0
    assert score.perplexity == pytest.approx(math.exp(2))
    assert client.score("The").perplexity is None


def test_log_probabilities_of_completion_and_prompt(server, client):
    server.logprobs[" the"] = -0.5
    server.reply(" and the")
    completion = client.generate("On the sea", logprobs=True, prompt_logprobs=True)
    assert [token.logprob for token in completion.logprobs] == [-1.0, -0.5]
    assert [token.logprob for token in completion.prompt_logprobs] == [None, -0.5, -1.0]
    with client.stream("On the sea", logprobs=True, prompt_logprobs=True) as stream:
        streamed = stream.result()
    assert (streamed.logprobs, streamed.prompt_logprobs) == (completion.logprobs, completion.prompt_logprobs)


def test_the_items_of_a_batch_succeed_and_fail_alone(server, client):
    server.reply("waves", prompt="The sea")
    server.fail(Overloaded("busy"), prompt="The moon", retry_after=2.0)
    items = [BatchItem("The sea", num_completions=2), BatchItem("The moon"), BatchItem("The sea", {"seed": 40}, 2)]
    results = list(client.generate_batch(items, seed=10))
    assert [(each.item, each.completion) for each in results] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    assert [each.result.seed for each in results if each.item != 1] == [10, 11, 40, 41]
    assert isinstance(results[2].result, Overloaded)
    assert results[2].result.retry_after == 2.0
    assert [request.prompt for request in server.requests] == ["The sea"] * 2 + ["The moon"] + ["The sea"] * 2


def test_many_calls_at_a_time_keep_their_order(server, client):
    for number in range(20):
        server.reply(f"answer {number}", prompt=f"question {number}")
    answers = client.generate_many((f"question {number}" for number in range(20)), concurrency=8)
    assert [answer.text for answer in answers] == [f"answer {number}" for number in range(20)]


def test_models_and_health(server, client):
    assert [(model.name, model.aliases["champion"]) for model in client.models()] == [("poems", 3), ("stories", 1)]
    assert client.model("stories").versions[0].state is VersionState.SERVING
    assert client.model().name == "poems"
    assert client.health() == client.health("model/poems") == "SERVING"
    server.serving = False
    assert client.health() == client.health("model/poems") == "NOT_SERVING"


def test_requests_and_calls_are_kept(server):
    server.reply("waves")
    with Client(server.address, timeout=20) as client:
        client.generate("The sea", stop="\n", json_schema={"type": "object"}, request_id="r-7")
        client.tokenize("The sea")
    [request] = server.requests
    assert request.prompt == "The sea"
    assert request.stopping.stop_strings == ["\n"]
    assert request.constraint.json_schema == '{"type": "object"}'
    assert [call.method for call in server.calls] == ["Generate", "Tokenize"]
    assert server.calls[0].request == request
    assert server.calls[0].timeout == pytest.approx(20, abs=1)  # gRPC rounds what it sends, and some time has passed
    assert "user-agent" in server.calls[0].metadata


def test_servers_do_not_know_each_other():
    with FakeServer() as one, FakeServer() as other, Client(one.address) as client:
        one.reply("one")
        other.reply("other")
        assert client.generate("The sea").text == "one"
        assert (len(one.requests), len(other.requests)) == (1, 0)
        assert one.address != other.address


@given(st.lists(st.text()))
def test_a_vocabulary_gives_back_what_it_was_given(texts):
    vocabulary = Vocabulary()
    tokens = [vocabulary.tokens(text) for text in texts]
    for text, made in zip(texts, tokens, strict=True):
        assert vocabulary.text(token.id for token in made) == text
        encoded = text.encode()
        assert [encoded[token.start : token.end].decode() for token in made] == [token.piece for token in made]
    assert vocabulary.text([10**6]) == "\ufffd"

"""What is wrong with a call is said in OpenAI's form, with the names that its caller used, and nothing else breaks."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import APIStatusError, AsyncOpenAI
from rhapsode_server import errors
from rhapsode_server.errors import InvalidRequest, ServingError
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.openai import values
from rhapsode_server.rpc.openai.parameters import asked
from rhapsode_server.rpc.server import Server
from support.fake_models import PATIENCE, FakeEngine, FakeModels
from support.http1 import Answer, connected, posted, request
from support.logs import ServerLog


async def asked_of(server: Server, data: bytes) -> Answer:
    async with asyncio.timeout(PATIENCE), connected(str(server.openai_address)) as connection:
        return await connection.ask(data)


async def refusal(openai: AsyncOpenAI, **given: Any) -> APIStatusError:
    with pytest.raises(APIStatusError) as caught:
        await openai.post("/completions", cast_to=object, body={"model": "poems", "prompt": "Sing", **given})
    return caught.value


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"tools": []}, None, "'tools' is not supported; there are prompt, model, n"),
        ({"best_of": 2}, None, "'best_of' is not supported"),
        ({"prompt": None}, "prompt", "is missing"),
        ({"prompt": 5}, "prompt", "must be a list"),
        ({"prompt": []}, "prompt", "must be one at least"),
        ({"prompt": ["a", 5]}, "prompt", "must be a text"),
        ({"prompt": [1, "a"]}, "prompt", "must be a list of token ids"),
        ({"prompt": [True]}, "prompt", "must be a text"),
        ({"prompt": [1, -1]}, "prompt", "must be a list of token ids"),
        ({"prompt": [300]}, "prompt[0]", "300 is not below the vocabulary size, 257"),
        ({"prompt": "x" * 65}, "prompt", "has 65 tokens; the model's context has 64"),
        ({"prompt": ["a"] * 1025}, "prompt", "at most 1024 completions"),
        ({"model": 5}, "model", "must be a text"),
        ({"model": "poems@x"}, "model", "after the @ belongs the number of a version"),
        ({"n": 0}, "n", "must be from 1 to 1024"),
        ({"n": 2**31}, "n", "must be from 1 to 1024"),
        ({"n": 1.5}, "n", "must be a whole number from 0 on"),
        ({"max_tokens": -1}, "max_tokens", "must be a whole number from 0 on"),
        ({"max_tokens": 2**32}, "max_tokens", "must be a whole number from 0 on"),
        ({"min_tokens": 30}, "min_tokens", "above max_new_tokens, 20"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"temperature": True}, "temperature", "must be a number"),
        ({"temperature": 10**400}, "temperature", "must be a number of a sensible size"),
        ({"temperature": 101}, "temperature", "must be from 0 to 100"),
        ({"top_p": 0}, "top_p", "must be above 0 and at most 1"),
        ({"presence_penalty": 1e39}, "presence_penalty", "must be from -100 to 100"),
        ({"seed": 2**64}, "seed", "must be a whole number of 64 bits"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop": ""}, "stop[0]", "must have 1 to 256 characters"),
        ({"stop": {"a": 1}}, "stop", "must be a list"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "must have token ids for its keys"),
        ({"logit_bias": {"300": 1}}, "logit_bias[300]", "is not below the vocabulary size"),
        ({"logit_bias": {"3": 101}}, "logit_bias[3]", "must be from -100 to 100"),
        ({"logprobs": 21}, "logprobs", "at most 20"),
        ({"echo": 1}, "echo", "must be true or false"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"stream_options": {}}, "stream_options", "belongs to a stream"),
        ({"stream": True, "stream_options": {"x": 1}}, None, "stream_options.'x' is not supported"),
        ({"response_format": {"type": "xml"}}, "response_format", "is of a kind that is not supported"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "must be an object"),
        ({"user": 5}, "user", "must be a text"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(
    openai: AsyncOpenAI, given: dict[str, Any], param: str | None, words: str
) -> None:
    error = await refusal(openai, **given)
    assert (error.status_code, error.type, error.code) == (400, "invalid_request_error", "invalid_field")
    assert error.param == param
    assert words in error.message


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "messages: is missing"),
        ("hello", "messages: must be a list"),
        ([{"role": "user"}], "messages[0]: must be a text"),
        ([{"content": "x"}], "messages[0].role: must be a text"),
        ([{"role": "user", "content": "x", "name": "ada"}], "messages[0].'name' is not supported"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]: is of a kind"),
    ],
)
def test_what_is_wrong_with_a_chat_is_named(messages: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(values.read_object(json.dumps({"messages": messages}).encode()), is_chat=True)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("failure", "status", "kind", "code"),
    [
        (errors.ModelNotFound("no such model"), 404, "not_found_error", "model_not_found"),
        (errors.Unauthenticated("who are you"), 401, "authentication_error", "unauthenticated"),
        (errors.PermissionDenied("not you"), 403, "permission_error", "permission_denied"),
        (errors.NotFiniteLogits("not finite"), 500, "server_error", "not_finite_logits"),
        (errors.DeadlinePassed("late"), 504, "server_error", "deadline_passed"),
        (errors.Overloaded("full", retry_after=2.25), 429, "rate_limit_error", "queue_full"),
        (errors.LimitReached("enough", retry_after=0.01), 429, "rate_limit_error", "limit_reached"),
        (errors.Loading("not yet", retry_after=5), 503, "server_error", "loading"),
        (errors.NotPossible("no"), 400, "invalid_request_error", "not_possible"),
    ],
)
async def test_each_failure_has_its_status(
    openai: AsyncOpenAI, models: FakeModels, failure: ServingError, status: int, kind: str, code: str
) -> None:
    models.failure = failure
    error = await refusal(openai)
    assert (error.status_code, error.type, error.code, error.param) == (status, kind, code, None)
    assert str(failure) in error.message
    if isinstance(failure, errors.TryAgain):
        seconds, milliseconds = (error.response.headers[name] for name in ("retry-after", "retry-after-ms"))
        assert int(milliseconds) == failure.retry_after * 1000
        assert 0 <= int(seconds) - failure.retry_after < 1
    assert error.request_id == error.response.headers["x-request-id"]


async def test_a_client_tries_again_when_it_is_told_to(server: Server, models: FakeModels, engine: FakeEngine) -> None:
    models.failure = errors.Overloaded("full", retry_after=0.05)
    engine.will_say("sea")
    url = f"http://{server.openai_address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=2, timeout=PATIENCE) as client:
        asyncio.get_running_loop().call_later(0.02, setattr, models, "failure", None)
        answer = await client.completions.create(model="poems", prompt="Sing")
    assert answer.choices[0].text == "sea"


async def test_a_bug_shows_nothing_of_the_inside(
    openai: AsyncOpenAI, models: FakeModels, server_log: ServerLog
) -> None:
    models.failure = RuntimeError("secret")
    error = await refusal(openai)
    assert error.status_code == 500
    assert "secret" not in error.message
    assert f"request id {error.request_id}" in error.message


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (request("GET", "/"), 404, "/v1/completions"),
        (request("GET", "/v1/completions"), 405, "method: must be POST"),
        (request("DELETE", "/v1/models"), 405, "method: must be GET"),
        (request("POST", "/v1/embeddings", "Content-Length: 0"), 404, "there is nothing here"),
        (posted("/v1/completions", b"{"), 400, "body: is not JSON"),
        (posted("/v1/completions", b"[]"), 400, "body: is not a JSON object"),
        (posted("/v1/completions", b'{"temperature": NaN}'), 400, "body: is not JSON"),
        (posted("/v1/completions", b"[" * 100_000), 400, "body: is not JSON"),
        (
            posted("/v1/completions", b'{"prompt": "\\ud800"}'),
            400,
            "prompt: must be a text of whole Unicode characters",
        ),
        (posted("/v1/completions", b"\xff"), 400, "body: is not JSON"),
        (posted("/v1/completions", b"{}", "X-Request-Timeout: soon"), 400, "X-Request-Timeout: must be seconds"),
        (request("POST", "/v1/completions", "Content-Length: 2") + b"{}", 415, "application/json"),
    ],
)
async def test_what_is_no_call_is_told_how_to_be_one(server: Server, data: bytes, status: int, words: str) -> None:
    answer = await asked_of(server, data)
    assert answer.status == status
    assert words in answer.error["message"]


@pytest.mark.parametrize("server_log", [False], indirect=True)
async def test_nothing_that_is_sent_is_in_the_log(
    openai: AsyncOpenAI, engine: FakeEngine, server_log: ServerLog
) -> None:
    engine.will_say("swordfish")
    await openai.completions.create(model="poems", prompt="swordfish", user="swordfish")
    await refusal(openai, swordfish=1)
    for name in ("stop", "logit_bias", "response_format"):
        await refusal(openai, **{name: {"swordfish": 1}})
    await refusal(openai, stream=True, stream_options={"swordfish": 1})
    lines = [line for line in server_log.lines if line["message"] == "request"]
    assert [line["method"] for line in lines] == ["completions"] * 6
    assert "swordfish" not in json.dumps(server_log.lines)


async def test_a_line_in_the_log_and_the_metrics(
    openai: AsyncOpenAI, engine: FakeEngine, server_log: ServerLog, metrics: Metrics, models: FakeModels
) -> None:
    engine.will_say("sea")
    await openai.completions.create(model="poems", prompt="Sing", extra_headers={"X-Request-Id": "r-7"})
    [line] = [line for line in server_log.lines if line["message"] == "request"]
    wanted = {"request_id": "r-7", "method": "completions", "outcome": "ok", "code": "OK", "model": "poems"}
    wanted |= {"version": 3, "finish_reason": "length", "prompt_tokens": 4, "generated_tokens": 3}
    assert {name: line[name] for name in wanted} == wanted
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert models.ends == ["ok"]
    labels = {"model": "poems", "version": "3", "outcome": "ok", "finish_reason": "length"}
    assert metrics.registry.get_sample_value("rhapsode_requests_total", labels) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = ["prompt", "messages", "model", "n", "max_tokens", "temperature", "top_p", "seed", "stop", "logit_bias", "echo"]
NAMES += ["logprobs", "stream", "stream_options", "response_format", "user", "top_k", "min_tokens", "ignore_eos"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.booleans())
def test_whatever_is_sent_is_read_or_refused(sent: dict[str, Any], is_chat: bool) -> None:
    with suppress(InvalidRequest):
        found = asked(values.read_object(json.dumps(sent).encode()), is_chat=is_chat)
        assert found.num_prompts * found.num_completions >= 1

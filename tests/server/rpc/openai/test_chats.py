"""/v1/chat/completions: conversations by the version's own template."""

import pytest
from openai import AsyncOpenAI, BadRequestError
from rhapsode_server.engine.request import FinishReason, TokenScore
from rhapsode_server.text.chat import ChatTemplate
from support.fake_models import TOKENIZER, FakeEngine, FakeModels, Submitted

TEMPLATE = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}{% endfor %}[assistant] "
FIRST, SECOND = TOKENIZER.encode("ab")


@pytest.fixture(autouse=True)
def _template(models: FakeModels) -> None:
    models.change(chat_template=ChatTemplate(TEMPLATE, {}))


async def test_a_chat(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_say("the sea")
    parts = [{"type": "text", "text": "S"}, {"type": "text", "text": "ing"}]
    answer = await openai.chat.completions.create(
        model="poems",
        messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": parts}],  # type: ignore[list-item]
        max_completion_tokens=7,
    )
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "the sea", "length")
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert TOKENIZER.decode(list(engine.requests[0].prompt_ids)) == "[system] Be short.[user] Sing[assistant] "
    assert engine.requests[0].max_new_tokens == 7


async def test_a_stream_begins_with_the_role_and_ends_with_the_reason(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.will_say("the sea")
    chunks = [
        chunk
        async for chunk in await openai.chat.completions.create(
            model="poems", messages=[{"role": "user", "content": "Sing"}], stream=True, max_tokens=7
        )
    ]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert "".join(delta.content or "" for delta in deltas) == "the sea"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * (len(chunks) - 1), "length"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


def scores(request: Submitted) -> None:
    request.stream.push_score(TokenScore(FIRST, -0.5, 2, ((SECOND, -0.125),)))
    request.generates([FIRST], FinishReason.LENGTH)


async def test_log_probabilities(openai: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = scores
    answer = await openai.chat.completions.create(
        model="poems", messages=[{"role": "user", "content": "Sing"}], logprobs=True, top_logprobs=1
    )
    assert engine.requests[0].top_logprobs == 1
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    [token] = found.content
    assert (token.token, token.logprob, token.bytes) == ("a", -0.5, [97])
    assert [(each.token, each.logprob, each.bytes) for each in token.top_logprobs] == [("b", -0.125, [98])]


async def test_a_model_without_a_template_takes_no_chats(openai: AsyncOpenAI, models: FakeModels) -> None:
    models.change(chat_template=None)
    with pytest.raises(BadRequestError, match="version 3 of poems has no chat template") as caught:
        await openai.chat.completions.create(model="poems", messages=[{"role": "user", "content": "Sing"}])
    assert caught.value.param == "messages"


async def test_candidates_alone_are_refused_by_their_name(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        await openai.chat.completions.create(
            model="poems", messages=[{"role": "user", "content": "Sing"}], top_logprobs=1
        )
    assert caught.value.param == "top_logprobs"

"""Completions over the wire: what ends them, what they say, how they are counted."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from rhapsode_client.results import FinishReason as Reason
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import GenerationDefaults
from rhapsode_server.workers.stream import TokenChunk
from support.fake_models import CONTEXT_LENGTH, EOS, TOKENIZER, FakeEngine, FakeModels


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)


class PartedStream:
    """Gives its parts one by one, each when it is asked for."""

    def __init__(self, parts: Sequence[Sequence[int]]) -> None:
        self._parts = list(parts)
        self.started_at = self.first_token_at = time.monotonic()
        self.num_cached_tokens = 0

    async def __anext__(self) -> TokenChunk:
        part = self._parts.pop(0)
        return TokenChunk(list(part), None if self._parts else FinishReason.LENGTH)

    def close(self) -> None: ...


class PartedEngine:
    """Answers every request with the same parts."""

    def __init__(self, *parts: Sequence[int]) -> None:
        self._parts = parts

    def hold(self) -> AbstractContextManager[None]:
        return nullcontext()

    def submit(self, **_: object) -> PartedStream:
        return PartedStream(self._parts)


async def test_a_stream_tells_who_answers_then_text_then_how_it_ended(client: AsyncClient, engine: FakeEngine) -> None:
    async with client.stream("Sing", seed=7, temperature=0.5, token_ids=True, request_id="r-1") as stream:
        request = await engine.arrival()
        request.says("O ")
        first = await anext(stream)
        assert stream.started is not None
        assert (stream.started.model, stream.started.version, stream.started.seed) == ("poems", 3, 7)
        assert stream.started.usage.prompt_tokens == 4
        assert stream.started.request_id == "r-1"
        request.says("goddess", FinishReason.LENGTH)
        completion = await stream.result()
    assert (first.text, list(first.token_ids)) == ("O ", ids_of("O "))
    assert completion.text == "O goddess"
    assert list(completion.token_ids) == ids_of("O goddess")
    assert completion.finish_reason is Reason.LENGTH
    assert completion.matched_stop is None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 9)
    assert completion.timings.first_token is not None
    assert 0 < completion.timings.queue <= completion.timings.first_token <= completion.timings.total
    assert request.sampling.temperature == 0.5
    assert request.prompt_ids == tuple(ids_of("Sing"))


async def test_the_stream_begins_before_the_engine_does(client: AsyncClient, stub: GenerationServiceStub) -> None:
    call = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    event = await call.read()
    assert event.WhichOneof("event") == "started"
    call.cancel()


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("plain words", []),
        ("h\u00e9 \U0001f600 \u05e9\u05dc\u05d5\u05dd a\u0301", []),
        ("one END two", ["END", "never"]),
        ("held EN", ["END"]),
        ("\U0001f600\U0001f600stop\U0001f600", ["\U0001f600stop"]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_deltas_add_up_to_the_unary_text_however_tokens_gather(
    client: AsyncClient, models: FakeModels, text: str, stops: list[str], size: int
) -> None:
    ids = ids_of(text)
    models.change(engine=PartedEngine(*(ids[i : i + size] for i in range(0, len(ids), size))))
    whole = await client.generate("", stop=stops, token_ids=True)
    async with client.stream("", stop=stops, token_ids=True) as stream:
        deltas = [delta async for delta in stream]
        streamed = await stream.result()
    stop = next((stop for stop in stops if stop in text), None)
    cut = text.index(stop) + len(stop) if stop else len(text)
    assert whole.text == text[: cut - len(stop or "")]
    assert "".join(delta.text for delta in deltas) == streamed.text == whole.text
    assert list(whole.token_ids) == list(streamed.token_ids) == ids_of(text[:cut])
    assert whole.matched_stop == streamed.matched_stop == stop
    assert whole.usage == streamed.usage
    assert whole.usage.completion_tokens == len(ids_of(text[:cut]))


async def test_a_stop_string_ends_the_request_in_the_engine(client: AsyncClient, engine: FakeEngine) -> None:
    completion = asyncio.ensure_future(client.generate("Sing", stop=["."], max_new_tokens=50))
    request = await engine.arrival()
    request.says("One. Two")
    answer = await completion
    assert (answer.text, answer.finish_reason, answer.matched_stop) == ("One", Reason.STOP_STRING, ".")
    assert answer.usage.completion_tokens == 4
    assert request.closed.is_set()


@pytest.mark.parametrize(
    ("options", "last", "reason"),
    [
        ({}, EOS, Reason.EOS),
        ({"stop_token_ids": [5, EOS]}, EOS, Reason.EOS),
        ({"stop_token_ids": [5, EOS], "ignore_eos": True}, EOS, Reason.STOP_TOKEN),
        ({"stop_token_ids": [5]}, 5, Reason.STOP_TOKEN),
    ],
)
async def test_a_token_that_ends_it_is_counted_but_not_in_the_text(
    client: AsyncClient, engine: FakeEngine, options: dict[str, object], last: int, reason: Reason
) -> None:
    engine.will_generate([*ids_of("sea"), last], FinishReason.STOP_TOKEN)
    answer = await client.generate("Sing", token_ids=True, skip_special_tokens=False, **options)
    assert (answer.text, answer.finish_reason, answer.matched_stop) == ("sea", reason, last)
    assert list(answer.token_ids) == [*ids_of("sea"), last]
    assert answer.usage.completion_tokens == 4


async def test_the_engine_stops_at_the_end_token_unless_told_otherwise(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_say("sea")
    await client.generate("Sing", stop_token_ids=[9])
    await client.generate("Sing", stop_token_ids=[9], ignore_eos=True)
    assert [request.stop_token_ids for request in engine.requests] == [{EOS, 9}, {9}]


async def test_special_tokens_show_when_asked_for(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_generate([EOS, *ids_of("sea")], FinishReason.LENGTH)
    assert (await client.generate("Sing", ignore_eos=True)).text == "sea"
    shown = await client.generate("Sing", ignore_eos=True, skip_special_tokens=False)
    assert shown.text == "<|endoftext|>sea"


async def test_text_and_ids_only_what_was_asked_for(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_say("sea")
    assert (await client.generate("Sing")).token_ids == ()


async def test_a_broken_character_comes_out_at_the_end(client: AsyncClient, models: FakeModels) -> None:
    first, second = ids_of("\u00e9")
    models.change(engine=PartedEngine(ids_of("a"), [first]))
    assert (await client.generate("Sing")).text == "a\ufffd"
    models.change(engine=PartedEngine(ids_of("a"), [first], [second]))
    async with client.stream("Sing") as stream:
        assert [delta.text async for delta in stream] == ["a", "\u00e9"]


async def test_ids_stream_on_while_text_waits_for_the_rest_of_a_character(
    client: AsyncClient, models: FakeModels
) -> None:
    first, second = ids_of("\u00e9")
    models.change(engine=PartedEngine([first], [second]))
    async with client.stream("Sing", token_ids=True) as stream:
        assert [(delta.text, delta.token_ids) async for delta in stream] == [("", (first,)), ("\u00e9", (second,))]


@pytest.mark.parametrize(
    ("prompt_length", "asked", "given", "reason"),
    [
        (4, None, 20, Reason.LENGTH),
        (4, 7, 7, Reason.LENGTH),
        (CONTEXT_LENGTH - 5, 5, 5, Reason.LENGTH),
        (CONTEXT_LENGTH - 5, 6, 5, Reason.CONTEXT_FULL),
        (CONTEXT_LENGTH - 5, None, 5, Reason.CONTEXT_FULL),
        (4, 2**32 - 1, CONTEXT_LENGTH - 4, Reason.CONTEXT_FULL),
    ],
)
async def test_max_new_tokens_is_cut_to_the_room_there_is(
    client: AsyncClient, engine: FakeEngine, prompt_length: int, asked: int | None, given: int, reason: Reason
) -> None:
    engine.script = lambda request: request.says("x" * request.max_new_tokens, FinishReason.LENGTH)
    answer = await client.generate("p" * prompt_length, max_new_tokens=asked)
    assert engine.requests[0].max_new_tokens == given
    assert (answer.finish_reason, answer.usage.completion_tokens) == (reason, given)


@pytest.mark.parametrize(
    ("prompt_length", "asked", "reason"),
    [(4, 0, Reason.LENGTH), (CONTEXT_LENGTH, 0, Reason.LENGTH), (CONTEXT_LENGTH, 5, Reason.CONTEXT_FULL)],
)
async def test_nothing_to_generate_is_answered_without_the_engine(
    client: AsyncClient, engine: FakeEngine, prompt_length: int, asked: int, reason: Reason
) -> None:
    answer = await client.generate("p" * prompt_length, max_new_tokens=asked)
    assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == ("", reason, 0)
    assert answer.usage.prompt_tokens == prompt_length
    assert answer.timings.first_token is None
    assert engine.requests == []


@pytest.mark.parametrize("prompt", ["", []])
async def test_an_empty_prompt_starts_from_the_beginning_or_end_token(
    client: AsyncClient, models: FakeModels, engine: FakeEngine, prompt: str | list[int]
) -> None:
    engine.will_say("sea")
    await client.generate(prompt)
    models.change(defaults=GenerationDefaults(bos_token_id=8, eos_token_ids=(EOS,)))
    await client.generate(prompt)
    assert [request.prompt_ids for request in engine.requests] == [(EOS,), (8,)]


async def test_unset_sampling_comes_from_the_version(
    client: AsyncClient, models: FakeModels, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    models.change(defaults=GenerationDefaults(temperature=0.8, top_k=40, top_p=0.95))
    plain = await client.generate("Sing")
    partly = await client.generate("Sing", temperature=0, top_p=1, seed=0)
    assert (plain.sampling.temperature, plain.sampling.top_k, plain.sampling.top_p) == (0.8, 40, 0.95)
    assert (partly.sampling.temperature, partly.sampling.top_k, partly.sampling.top_p) == (0, 40, 1)
    assert partly.seed == 0
    used = engine.requests[1].sampling
    assert (used.temperature, used.top_k, used.top_p, used.seed) == (0, 40, 1, 0)


async def test_what_was_used_gives_the_same_parameters_again(
    client: AsyncClient, models: FakeModels, engine: FakeEngine
) -> None:
    engine.will_say("sea")
    models.change(defaults=GenerationDefaults(temperature=0.8, top_k=40, top_p=0.95))
    first = await client.generate("Sing")
    used = first.sampling
    await client.generate("Sing", temperature=used.temperature, top_k=used.top_k, top_p=used.top_p, seed=first.seed)
    assert engine.requests[0].sampling == engine.requests[1].sampling


async def test_an_unset_seed_is_drawn_and_told(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_say("sea")
    seeds = [(await client.generate("Sing")).seed for _ in range(4)]
    assert seeds == [request.sampling.seed for request in engine.requests]
    assert len(set(seeds)) == 4
    assert max(seeds) < 2**53
    assert (await client.generate("Sing", seed=2**64 - 1)).seed == 2**64 - 1


async def test_version_and_alias_reach_the_models(client: AsyncClient, models: FakeModels, engine: FakeEngine) -> None:
    engine.will_say("sea")
    await client.generate("Sing")
    await client.generate("Sing", model="poems", version=3)
    await client.generate("Sing", alias="previous")
    assert models.asked == [("", None, None), ("poems", 3, None), ("", None, "previous")]


async def test_a_slow_reader_gets_few_large_messages(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    call = stub.GenerateStream(pb.GenerateRequest(prompt="Sing"))
    request = await engine.arrival()
    for _ in range(400):
        request.says("x" * 1000)
        # Lets the server write as long as the transport takes it.
        await asyncio.sleep(0)
    request.says("x", FinishReason.LENGTH)
    texts = [event.delta.text async for event in call if event.WhichOneof("event") == "delta"]
    assert "".join(texts) == "x" * 400_001
    assert len(texts) < 300


async def test_tokens_that_came_together_leave_together(client: AsyncClient, engine: FakeEngine) -> None:
    engine.will_say("a" * 20)
    async with client.stream("Sing") as stream:
        assert [delta.text async for delta in stream] == ["a" * 20]


async def test_the_metrics_count_what_happened(client: AsyncClient, models: FakeModels, metrics: Metrics) -> None:
    models.change(engine=PartedEngine(ids_of("abc"), ids_of("de"), ids_of("f")))
    await client.generate("Sing")
    labels = {"model": "poems", "version": "3"}

    def value(name: str, **more: str) -> float | None:
        return metrics.registry.get_sample_value(f"rhapsode_{name}", labels | more)

    assert value("requests_total", outcome="ok", finish_reason="length") == 1
    assert value("prompt_tokens_total") == 4
    assert value("generated_tokens_total") == 6
    assert value("time_to_first_token_seconds_count") == 1
    assert value("queue_time_seconds_count") == 1
    assert value("request_duration_seconds_count") == 1
    assert value("inter_token_latency_seconds_count") == 5


async def test_a_completion_without_tokens_has_a_reason_too(client: AsyncClient, metrics: Metrics) -> None:
    await client.generate("Sing", max_new_tokens=0)
    labels = {"model": "poems", "version": "3", "outcome": "ok", "finish_reason": "length"}
    assert metrics.registry.get_sample_value("rhapsode_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("rhapsode_calls_total", {"method": "Generate", "outcome": "error"}) == 0


async def test_tokenize_and_detokenize(client: AsyncClient) -> None:
    tokens = await client.tokenize("h\u00e9")
    assert [(token.id, token.start, token.end) for token in tokens] == [
        (token_id, place, place + 1) for place, token_id in enumerate(ids_of("h\u00e9"))
    ]
    ids = [token.id for token in tokens]
    assert await client.detokenize([*ids, EOS]) == "h\u00e9"
    assert await client.detokenize([*ids, EOS], skip_special_tokens=False) == "h\u00e9<|endoftext|>"
    assert await client.tokenize("") == []
    assert await client.detokenize(ids_of("\u00e9")[:1]) == "\ufffd"


async def test_a_long_text_is_tokenised_without_stalling_streams(client: AsyncClient, engine: FakeEngine) -> None:
    tokens = asyncio.ensure_future(client.tokenize("x" * 50_000))
    engine.will_say("sea")
    assert (await client.generate("Sing")).text == "sea"
    assert len(await tokens) == 50_000

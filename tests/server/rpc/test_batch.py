"""GenerateBatch: many completions in one call, each with its own end."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_server import errors
from rhapsode_server.engine.request import FinishReason
from rhapsode_server.metrics import Metrics
from rhapsode_server.rpc.batch import Batch
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.generate import Generation
from rhapsode_server.rpc.prepare import Prepared
from rhapsode_server.rpc.server import Server
from rhapsode_server.workers.stream import TokenStream
from support.fake_models import LIMITS, PATIENCE, FakeEngine, FakeModels, Submitted

Answers = dict[tuple[int, int], pb.GenerateBatchResponse]


def item(prompt: str = "Sing", num_completions: int = 0, **fields: Any) -> pb.GenerateBatchItem:
    request = pb.GenerateRequest(**{"prompt": prompt, **fields})
    return pb.GenerateBatchItem(request=request, num_completions=num_completions)


async def batch(stub: GenerationServiceStub, items: Sequence[pb.GenerateBatchItem], **fields: Any) -> Answers:
    found: Answers = {}
    async for answer in stub.GenerateBatch(pb.GenerateBatchRequest(items=items, **fields)):
        assert (answer.item, answer.completion) not in found
        found[answer.item, answer.completion] = answer
    return found


async def failure(stub: GenerationServiceStub, items: Sequence[pb.GenerateBatchItem]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await batch(stub, items)
    return caught.value


def echo_prompt(request: Submitted) -> None:
    request.generates(request.prompt_ids, FinishReason.LENGTH)


async def test_every_completion_is_answered_once(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = echo_prompt
    answers = await batch(stub, [item("one"), item("two", 3), item("three", 1)], request_id="b-1")
    assert sorted(answers) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    texts = {place: answer.response.text for place, answer in answers.items()}
    assert texts == {(0, 0): "one", (1, 0): "two", (1, 1): "two", (1, 2): "two", (2, 0): "three"}
    for answer in answers.values():
        response = answer.response
        assert (response.model, response.version, response.request_id) == ("poems", 3, "b-1")
        assert (response.usage.completion_tokens, response.finish_reason) == (
            len(response.text),
            pb.FINISH_REASON_LENGTH,
        )
        assert response.timings.HasField("first_token")


async def test_answers_come_as_they_complete(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    call = stub.GenerateBatch(pb.GenerateBatchRequest(items=[item("one"), item("two")]))
    first, second = await engine.arrival(), await engine.arrival()
    second.says("2", FinishReason.LENGTH)
    answer = await call.read()
    assert answer.response.text == "2"
    assert not first.closed.is_set()
    first.says("1", FinishReason.LENGTH)
    assert (await call.read()).response.text == "1"
    assert await call.read() is grpc.aio.EOF


async def test_completions_of_an_item_share_a_group(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = echo_prompt
    await batch(stub, [item("one", 2), item("two"), item("six", 3)])
    groups = [(bytes(request.prompt_ids), request.group) for request in engine.requests]
    counted = Counter(groups)
    assert sorted(counted.values()) == [1, 2, 3]
    assert [count for (_, group), count in counted.items() if group is None] == [1]
    assert len({group for _, group in counted}) == 3


@pytest.mark.parametrize("start", [7, 2**64 - 2])
async def test_seeds_are_derived_by_place(stub: GenerationServiceStub, engine: FakeEngine, start: int) -> None:
    engine.script = echo_prompt
    own = pb.SamplingParameters(seed=start)
    items = [item("one", 2), item("two", 2, sampling=own), item("six", 2)]
    answers = await batch(stub, items, seed=start)
    seeds = {place: answer.response.seed for place, answer in answers.items()}
    offsets = {(0, 0): 0, (0, 1): 1, (1, 0): 0, (1, 1): 1, (2, 0): 4, (2, 1): 5}
    assert seeds == {place: (start + offset) % 2**64 for place, offset in offsets.items()}
    assert sorted(request.sampling.seed for request in engine.requests) == sorted(seeds.values())
    assert all(answer.response.sampling.seed == answer.response.seed for answer in answers.values())


async def test_an_unset_seed_is_drawn_once(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = echo_prompt
    drawn = [await batch(stub, [item("one", 3)]) for _ in range(2)]
    starts = [answers[0, 0].response.seed for answers in drawn]
    assert starts[0] != starts[1]
    for start, answers in zip(starts, drawn, strict=True):
        assert [answers[0, index].response.seed for index in range(3)] == [start, start + 1, start + 2]


def details(status: pb.Status, *kinds: type) -> list[Any]:
    found = [kind() for kind in kinds]
    assert all(packed.Unpack(each) for packed, each in zip(status.details, found, strict=True))
    return found


async def test_a_bad_item_does_not_spoil_the_call(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = echo_prompt
    bad = item("two", 2, sampling=pb.SamplingParameters(top_p=2))
    answers = await batch(stub, [item("one"), bad, pb.GenerateBatchItem(), item("x", model="prose")], request_id="b-1")
    assert answers[0, 0].response.text == "one"
    for completion in (0, 1):
        info, request, about = details(answers[1, completion].error, ErrorInfo, BadRequest, RequestInfo)
        assert (info.reason, info.domain, about.request_id) == ("INVALID_FIELD", "rhapsode", "b-1")
        assert [violation.field for violation in request.field_violations] == ["sampling.top_p"]
        assert answers[1, completion].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers[2, 0].error.message.startswith("prompt: is missing")
    assert answers[3, 0].error.code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    "raised",
    [errors.WorkerLost("gone"), errors.Overloaded("full", retry_after=2), RuntimeError("a secret"), ValueError("x")],
)
async def test_an_item_fails_as_a_call_of_its_own(
    stub: GenerationServiceStub, engine: FakeEngine, raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = raised
    answers = await batch(stub, [item("one")], request_id="b-1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(prompt="one", request_id="b-1"))
    own = Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    assert answers[0, 0].error.SerializeToString() == own.SerializeToString()
    assert "secret" not in str(own)


async def test_what_fails_in_the_engine_fails_alone(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    def script(request: Submitted) -> None:
        if request.sampling.seed == 1:
            request.stream.fail(errors.WorkerLost("gone"))
        elif request.sampling.seed == 2:
            request.generates([], FinishReason.NOT_FINITE)
        else:
            echo_prompt(request)

    engine.script = script
    answers = await batch(stub, [item("one", 4)], seed=0)
    assert [answers[0, index].WhichOneof("result") for index in range(4)] == ["response", "error", "error", "response"]
    info, retry, _ = details(answers[0, 1].error, ErrorInfo, RetryInfo, RequestInfo)
    assert info.reason == "WORKER_LOST"
    assert retry.retry_delay.ToMilliseconds() == 1000
    assert details(answers[0, 2].error, ErrorInfo, RequestInfo)[0].reason == "NOT_FINITE_LOGITS"


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        ([item("one"), item("two", 1024)], "items[1].num_completions"),
        ([item("one")] * 1025, "items[1024].num_completions"),
        ([item("one", 2**32 - 1)], "items[0].num_completions"),
    ],
)
async def test_what_is_wrong_with_the_call_itself(
    stub: GenerationServiceStub, engine: FakeEngine, items: list[pb.GenerateBatchItem], field: str
) -> None:
    error = await failure(stub, items)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith(f"{field}: ")
    assert engine.requests == []


class NarrowEngine(FakeEngine):
    """Has `room` places, of which others hold `taken`. It answers a little later."""

    room, taken, num_open, most = 3, 0, 0, 0

    def submit(self, **request: Any) -> TokenStream:
        if self.num_open + self.taken >= self.room:
            raise errors.Overloaded("full")
        self.num_open += 1
        self.most = max(self.most, self.num_open)
        stream = super().submit(**request)
        asyncio.get_running_loop().call_soon(self._answer, self.requests[-1])
        return stream

    def _answer(self, request: Submitted) -> None:
        self.num_open -= 1
        echo_prompt(request)


@pytest.mark.parametrize(("room", "most"), [(3, 3), (1, 1), (100, LIMITS.max_sequences)])
async def test_a_batch_waits_for_itself_and_floods_nobody(
    stub: GenerationServiceStub, models: FakeModels, room: int, most: int
) -> None:
    engine = NarrowEngine()
    engine.room = room
    models.change(engine=engine)
    answers = await batch(stub, [item(str(index), 4) for index in range(10)])
    assert len(answers) == 40
    assert all(answer.HasField("response") for answer in answers.values())
    assert engine.most == most
    assert engine.num_holds == 0


async def test_a_queue_full_of_others_refuses_the_item(stub: GenerationServiceStub, models: FakeModels) -> None:
    engine = NarrowEngine()
    engine.taken = engine.room
    models.change(engine=engine)
    answers = await batch(stub, [item("one", 2)])
    assert [details(each.error, ErrorInfo, RetryInfo, RequestInfo)[0].reason for each in answers.values()] == [
        "QUEUE_FULL",
        "QUEUE_FULL",
    ]


async def settled() -> None:
    """Whatever could go on without news from outside has done so."""
    for _ in range(1000):
        await asyncio.sleep(0)


async def test_completions_wait_for_a_slow_reader(
    models: FakeModels, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Generation] = []

    class Counted(Generation):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr("rhapsode_server.rpc.batch.Generation", Counted)
    models.engine.script = echo_prompt
    reads, answers = asyncio.Semaphore(0), []

    async def write(answer: pb.GenerateBatchResponse) -> None:
        await reads.acquire()
        answers.append((answer.item, answer.completion))

    running = Batch(
        models=models, metrics=metrics, default_max_new_tokens=20, call=Call(method="GenerateBatch"), seed=0
    )
    call = asyncio.create_task(running.run(pb.GenerateBatchRequest(items=[item("a", 200), item("b", 200)]), write))
    await settled()
    ahead = 1 + 8 + LIMITS.max_sequences
    assert len(made) == len(models.engine.requests) == ahead
    for _ in range(3):
        reads.release()
    await settled()
    assert len(made) == len(models.engine.requests) == ahead + 3
    for _ in range(397):
        reads.release()
    async with asyncio.timeout(PATIENCE):
        await call
    assert sorted(answers) == [(index, completion) for index in (0, 1) for completion in range(200)]
    assert models.engine.num_holds == 0


async def test_a_slow_reader_that_leaves(models: FakeModels, metrics: Metrics) -> None:
    models.engine.script = echo_prompt

    async def write(answer: pb.GenerateBatchResponse) -> None:
        await asyncio.Event().wait()

    running = Batch(
        models=models, metrics=metrics, default_max_new_tokens=20, call=Call(method="GenerateBatch"), seed=0
    )
    call = asyncio.create_task(running.run(pb.GenerateBatchRequest(items=[item("a", 200)]), write))
    await settled()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert models.engine.num_holds == 0


async def test_a_completion_that_cannot_even_begin_fails_alone(
    stub: GenerationServiceStub, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Picky(Generation):
        def __init__(self, prepared: Prepared, *arguments: Any) -> None:
            if prepared.parameters.seed == 12:
                raise RuntimeError("a bug")
            super().__init__(prepared, *arguments)

    monkeypatch.setattr("rhapsode_server.rpc.batch.Generation", Picky)
    engine.script = echo_prompt
    answers = await batch(stub, [item("one", 20)], seed=0)
    assert [answers[0, index].WhichOneof("result") for index in range(20)] == [
        "error" if index == 12 else "response" for index in range(20)
    ]


async def test_the_largest_batch(stub: GenerationServiceStub, models: FakeModels) -> None:
    models.change(engine=NarrowEngine())
    answers = await batch(stub, [item("x")] * 1024)
    assert len(answers) == 1024


@pytest.mark.parametrize(("deadline", "outcome"), [(None, "cancelled"), (0.0, "deadline")])
async def test_what_the_end_of_the_call_leaves_undone_is_counted(
    models: FakeModels, engine: FakeEngine, metrics: Metrics, deadline: float | None, outcome: str
) -> None:
    """Completions that run, and those whose turn has not come, beside one that was answered."""
    answered = asyncio.Event()

    async def write(answer: pb.GenerateBatchResponse) -> None:
        answered.set()

    call = Call(method="GenerateBatch", deadline=deadline)
    running = Batch(models=models, metrics=metrics, default_max_new_tokens=20, call=call, seed=0)
    items = [item("one"), item("two", LIMITS.max_sequences + 5)]
    task = asyncio.create_task(running.run(pb.GenerateBatchRequest(items=items), write))
    (await engine.arrival()).says("1", FinishReason.LENGTH)
    async with asyncio.timeout(PATIENCE):
        await answered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ends = Counter[str]()
    for sample in (sample for family in metrics.registry.collect() for sample in family.samples):
        if sample.name == "rhapsode_requests_total":
            ends[sample.labels["outcome"]] += int(sample.value)
    assert ends == {"ok": 1, outcome: LIMITS.max_sequences + 5}
    assert models.ends.count("ok") == 1


async def test_cancelling_the_call_cancels_all(server: Server, stub: GenerationServiceStub, engine: FakeEngine) -> None:
    call = stub.GenerateBatch(pb.GenerateBatchRequest(items=[item("one", 20), item("two", 20)]))
    requests = [await engine.arrival() for _ in range(LIMITS.max_sequences)]
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        for request in requests:
            await request.closed.wait()
        await server.rotation.calls_finished()
    assert engine.num_holds == 0
    assert len(engine.requests) == LIMITS.max_sequences


async def test_the_deadline_of_the_call_is_that_of_each(stub: GenerationServiceStub, engine: FakeEngine) -> None:
    engine.script = echo_prompt
    request = pb.GenerateBatchRequest(items=[item("one"), item("two")])
    assert len([answer async for answer in stub.GenerateBatch(request, timeout=60)]) == 2
    deadlines = {each.deadline for each in engine.requests}
    assert len(deadlines) == 1
    assert None not in deadlines


async def test_each_completion_is_counted(stub: GenerationServiceStub, engine: FakeEngine, metrics: Metrics) -> None:
    engine.script = echo_prompt
    await batch(stub, [item("one", 3), item("two", sampling=pb.SamplingParameters(top_p=2))])

    def value(outcome: str, reason: str) -> float | None:
        labels = {"model": "poems", "version": "3", "outcome": outcome, "finish_reason": reason}
        return metrics.registry.get_sample_value("rhapsode_requests_total", labels)

    assert (value("ok", "length"), value("invalid", "")) == (3, 1)
    labels = {"model": "poems", "version": "3"}
    assert metrics.registry.get_sample_value("rhapsode_generated_tokens_total", labels) == 9
    assert metrics.registry.get_sample_value("rhapsode_request_duration_seconds_count", labels) == 3

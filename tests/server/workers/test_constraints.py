"""Constraints in a real worker process, and how requests wait for theirs."""

import asyncio
import json
import queue
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import BadConstraint, ConstraintsBusy
from rhapsode_server.engine.request import Constraint, EngineRequest, FinishReason, SamplingParameters
from rhapsode_server.text.tokenizer import Tokenizer
from rhapsode_server.workers.constraints import Constraining, ConstraintNews, Prepared
from support.checking_runner import Clock
from support.logs import ServerLog
from support.publishing import publish_model
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.workers import WorkerEvents, make_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

END_ID = 0
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"type": "array", "items": {"enum": [1, 22, "x"]}, "maxItems": 3}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ENDLESS = Constraint(
    "json_schema", json.dumps({"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(10, 40)]})
)


class Running:
    """A worker of a tiny model with random weights, and the tokenizer of its version."""

    def __init__(self, path: Path) -> None:
        events = WorkerEvents()
        self.steps = events.steps
        self.tokenizer = Tokenizer.load(path)
        options = EngineOptions(
            path=str(path), vocabulary_size=VOCABULARY_SIZE, device="cpu", threads=1, max_sequences=4
        )
        self.worker = make_worker(options, events)

    def submit(self, constraint: Constraint | None, seed: int = 0, *, end_ids: Any = (END_ID,), **fields: Any) -> Any:
        fields = {"max_new_tokens": 200, "stop_token_ids": frozenset(end_ids)} | fields
        sampling = SamplingParameters(temperature=1.0, seed=seed)
        return self.worker.submit(prompt_ids=(5, 6, 7), sampling=sampling, constraint=constraint, **fields)

    async def complete(self, stream: Any) -> tuple[str, FinishReason, str]:
        token_ids = []
        async for chunk in stream:
            token_ids += chunk.token_ids
        return self.tokenizer.decode(token_ids, skip_special_tokens=True), chunk.finish_reason, chunk.detail


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    root = tmp_path_factory.mktemp("models")
    version = publish_model(root, "tiny", tiny_model("gpt2"))
    running = Running(root / "tiny" / str(version))
    await running.worker.start()
    yield running
    await running.worker.stop()


async def test_random_weights_write_valid_json(running: Running) -> None:
    constraint = Constraint("json_schema", json.dumps(SCHEMA))
    streams = [running.submit(constraint, seed, max_new_tokens=1000) for seed in range(12)]
    documents = []
    for stream in streams:
        text, reason, _ = await running.complete(stream)
        assert reason in (FinishReason.CONSTRAINT, FinishReason.STOP_TOKEN)
        documents.append(json.loads(text))
    for document in documents:
        assert list(document) == ["a", "b"]
        assert type(document["a"]) is bool
        assert len(document["b"]) <= 3
        assert all(item in (1, 22, "x") for item in document["b"])
    assert len({json.dumps(document) for document in documents}) > 3


async def test_every_kind_beside_free_text(running: Running) -> None:
    free = running.submit(None, max_new_tokens=60)
    forms = [
        Constraint("regex", "[a-c]{3,5}-ü"),
        Constraint("choices", '["yes", "yesterday", "no"]'),
        Constraint("grammar", 'root ::= "(" root ")" | [0-9]'),
    ]
    texts = [(await running.complete(running.submit(form, 3)))[0] for form in forms]
    assert texts[0].endswith("-ü")
    assert set(texts[0][:-2]) <= set("abc")
    assert texts[1] in ("yes", "yesterday", "no")
    digit = texts[2].strip("()")
    assert len(digit) == 1
    assert texts[2].count("(") == texts[2].count(")") == (len(texts[2]) - 1) / 2
    assert (await running.complete(free))[1] in (FinishReason.LENGTH, FinishReason.STOP_TOKEN)


async def test_how_it_ends_with_and_without_an_end_token(running: Running) -> None:
    form = Constraint("regex", "x{40,}")
    endings = {(await running.complete(running.submit(form, seed)))[1] for seed in range(4)}
    assert endings <= {FinishReason.STOP_TOKEN, FinishReason.LENGTH}
    text, reason, _ = await running.complete(running.submit(Constraint("regex", "x{40}"), end_ids=()))
    assert (text, reason) == ("x" * 40, FinishReason.CONSTRAINT)
    text, reason, _ = await running.complete(running.submit(form, end_ids=(), max_new_tokens=50))
    assert set(text) == {"x"}
    assert reason is FinishReason.LENGTH


async def test_a_bad_constraint_ends_its_own_request_only(running: Running) -> None:
    good, bad = running.submit(None, max_new_tokens=300), running.submit(Constraint("regex", "(a"))
    assert await running.complete(bad) == ("", FinishReason.BAD_CONSTRAINT, "unclosed group")
    assert (await running.complete(good))[1] in (FinishReason.LENGTH, FinishReason.STOP_TOKEN)
    await asyncio.wait_for(running.worker.idle.wait(), 10)


async def test_an_idle_engine_wakes_for_a_constraint_and_others_run_while_it_is_prepared(running: Running) -> None:
    endless = running.submit(ENDLESS)
    for seed in range(3):
        assert (await running.complete(running.submit(None, seed, max_new_tokens=20)))[0]
    text, reason, detail = await asyncio.wait_for(running.complete(endless), 30)
    assert (text, reason, detail) == ("", FinishReason.BAD_CONSTRAINT, "it takes longer than 5 s to prepare")


@pytest.mark.parametrize(
    ("limit", "reason"), [("ends_at", FinishReason.TIME_LIMIT), ("deadline", FinishReason.EXPIRED)]
)
async def test_an_idle_engine_ends_what_is_being_prepared_in_time(
    running: Running, limit: str, reason: FinishReason
) -> None:
    endless = Constraint(ENDLESS.kind, f"{ENDLESS.source} {' ' * len(limit)}")
    stream = running.submit(endless, **{limit: time.monotonic() + 0.1})
    assert await running.complete(stream) == ("", reason, "")
    assert time.monotonic() < stream.submitted_at + 4, "long before it is known to be bad"


async def test_admission_hears_when_a_constraint_is_ready(running: Running) -> None:
    stream = running.submit(Constraint("regex", "x{900,}"), max_new_tokens=900, end_ids=())
    admission = running.worker._admission
    assert len(admission._preparing) == 1
    await running.steps.until(lambda stats: stats.running == 1)
    assert (len(admission._preparing), len(admission._running)) == (0, 1)
    stream.close()
    await running.steps.until(lambda stats: stats.running == 0)


class FakeEngine:
    def __init__(self) -> None:
        self.submitted: list[tuple[EngineRequest, Any]] = []

    def submit(self, request: EngineRequest, matcher: Any) -> None:
        self.submitted.append((request, matcher))


class FakeGrammars:
    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def prepare(self, constraint: Constraint, end_ids: Any) -> "Future[Any]":
        assert end_ids == {END_ID}
        self.futures.append(Future())
        return self.futures[-1]


def request(request_id: int, **fields: Any) -> EngineRequest:
    constraint = Constraint("regex", "a")
    return EngineRequest(
        request_id=request_id,
        prompt_ids=(1,),
        max_new_tokens=1,
        stop_token_ids=frozenset({END_ID}),
        constraint=constraint,
        **fields,
    )


async def test_what_is_cancelled_while_it_is_prepared_never_reaches_the_engine() -> None:
    engine, grammars, inbox = FakeEngine(), FakeGrammars(), queue.SimpleQueue[Prepared]()
    constraining = Constraining(engine, grammars, inbox.put)  # type: ignore[arg-type]
    for request_id in range(4):
        constraining.begin(request(request_id))
    queued, running, bad, good = grammars.futures
    running.set_running_or_notify_cancel()
    for request_id in (0, 1, 77):
        constraining.cancel(request_id)
    assert queued.cancelled()
    running.set_result("matcher 1")
    bad.set_exception(BadConstraint("bad"))
    good.set_result("matcher 3")
    while not inbox.empty():
        constraining.finish(inbox.get().request)
    assert [(request.request_id, matcher) for request, matcher in engine.submitted] == [(3, "matcher 3")]
    news = constraining.take_news()
    assert news.prepared == [3]
    [event] = news.events
    assert (event.request_id, event.token_id, event.finish_reason, event.detail) == (
        2,
        None,
        FinishReason.BAD_CONSTRAINT,
        "bad",
    )
    assert constraining.take_news() == ConstraintNews()


async def test_whatever_else_befalls_it_is_logged_for_its_request(server_log: ServerLog) -> None:
    engine, grammars, inbox = FakeEngine(), FakeGrammars(), queue.SimpleQueue[Prepared]()
    constraining = Constraining(engine, grammars, inbox.put)  # type: ignore[arg-type]
    for request_id, wire_id in enumerate(("r-1", "r-2")):
        constraining.begin(replace(request(request_id), wire_id=wire_id))
    bug, bad = grammars.futures
    bug.set_exception(BadConstraint("it could not be prepared", bug=RuntimeError("panic at my diary")))
    bad.set_exception(BadConstraint("bad"))
    while not inbox.empty():
        constraining.finish(inbox.get().request)
    [line] = server_log.lines
    assert (line["message"], line["request_id"]) == ("a constraint could not be prepared", "r-1")
    assert "RuntimeError" in line["traceback"]
    assert "diary" not in server_log.text


async def test_time_goes_on_while_a_constraint_is_prepared() -> None:
    engine, grammars, clock = FakeEngine(), FakeGrammars(), Clock()
    constraining = Constraining(engine, grammars, lambda _: None, clock)  # type: ignore[arg-type]
    constraining.begin(request(0))
    assert constraining.seconds_left is None
    constraining.begin(request(1, ends_at=clock.now + 2))
    constraining.begin(request(2, deadline=clock.now + 3))
    ends = []
    for seconds in (2, 1, None):
        assert constraining.seconds_left == seconds
        clock.now += seconds or 0
        constraining.end_what_is_due()
        ends += [(event.request_id, event.finish_reason) for event in constraining.take_news().events]
    assert ends == [(1, FinishReason.TIME_LIMIT), (2, FinishReason.EXPIRED)]
    assert [future.cancelled() for future in grammars.futures] == [False, True, True]


async def test_a_request_for_which_there_is_no_room_is_told_so() -> None:
    engine, grammars = FakeEngine(), FakeGrammars()
    constraining = Constraining(engine, grammars, lambda _: None)  # type: ignore[arg-type]
    constraining.begin(asked := request(0))
    grammars.futures[0].set_exception(ConstraintsBusy("later"))
    constraining.finish(asked)
    [event] = constraining.take_news().events
    assert (event.finish_reason, event.detail) == (FinishReason.CONSTRAINT_BUSY, "later")

"""A real worker process: tokens, cancellation, loss and end."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.engine.request import FinishReason, SamplingParameters
from rhapsode_server.engine.scheduler import MAX_STRETCH, STEP_OVERHEAD
from rhapsode_server.errors import Overloaded, Unavailable, WorkerLost
from rhapsode_server.workers.exits import ExitReason
from rhapsode_server.workers.worker import Worker
from support.publishing import publish_model
from support.reference import generate_greedily
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.workers import WorkerEvents, make_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREEDY = SamplingParameters()


def options(path: Path, **overrides: Any) -> EngineOptions:
    return EngineOptions(path=str(path), vocabulary_size=VOCABULARY_SIZE, device="cpu", threads=1, **overrides)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    return root / "tiny" / str(publish_model(root, "tiny", tiny_model("gpt2")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(version: Path) -> AsyncIterator[tuple[Worker, WorkerEvents]]:
    events = WorkerEvents()
    worker = make_worker(options(version, max_sequences=4, max_batch_tokens=64), events)
    ready = await worker.start()
    assert events.stages[0] == "warming"
    assert (ready.device, ready.dtype, ready.context_length) == ("cpu", "float32", 1024)
    assert ready.parameter_count == sum(parameter.numel() for parameter in tiny_model("gpt2").parameters())
    yield worker, events
    await worker.stop()
    assert await events.exits.get() is ExitReason.STOPPED
    await worker.stop()
    assert events.lost.empty(), "an end that was asked for is no loss"
    assert events.exits.empty(), "it is told once"


def submit(worker: Worker, prompt: Sequence[int] = (5, 6, 7), max_new_tokens: int = 1000) -> Any:
    return worker.submit(prompt_ids=prompt, max_new_tokens=max_new_tokens, sampling=GREEDY, stop_token_ids=frozenset())


async def read(stream: Any) -> tuple[list[int], FinishReason]:
    tokens = []
    async for chunk in stream:
        tokens += chunk.token_ids
    return tokens, chunk.finish_reason


async def test_tokens_arrive_and_equal_generate(running: tuple[Worker, WorkerEvents]) -> None:
    worker, events = running
    stream = submit(worker, (3, 1, 4), 25)
    assert await read(stream) == (generate_greedily(tiny_model("gpt2"), (3, 1, 4), 25), FinishReason.LENGTH)
    assert stream.submitted_at < stream.started_at <= stream.first_token_at
    await events.steps.until(lambda stats: stats.blocks_used == 0)


async def test_closing_a_stream_in_decode_frees_its_blocks(running: tuple[Worker, WorkerEvents]) -> None:
    worker, events = running
    stream, first = submit(worker), len(events.steps.all)
    async for chunk in stream:
        assert chunk.token_ids
        break
    stream.close()
    await events.steps.until(lambda stats: stats.blocks_used == 0 and stats.running == 0)
    assert len(events.steps.all) - first < 500, "it was not computed to its end"
    assert worker.idle.is_set()


async def test_who_holds_it_keeps_it_from_being_idle(running: tuple[Worker, WorkerEvents]) -> None:
    worker, _ = running
    with worker.hold():
        assert not worker.idle.is_set()
        stream = submit(worker)
    assert not worker.idle.is_set()
    stream.close()
    assert worker.idle.is_set()


async def test_closing_a_queued_stream_forgets_it(running: tuple[Worker, WorkerEvents]) -> None:
    worker, events = running
    streams = [submit(worker) for _ in range(6)]
    await events.steps.until(lambda stats: stats.running == 4 and stats.waiting == 2)
    streams[5].close()
    await events.steps.until(lambda stats: stats.running == 4 and stats.waiting == 1)
    for stream in streams:
        stream.close()
    await events.steps.until(lambda stats: stats.blocks_used == 0 and stats.waiting == 0)


async def test_tokens_gather_while_nobody_reads(running: tuple[Worker, WorkerEvents]) -> None:
    worker, _ = running
    stream = submit(worker, max_new_tokens=30)
    await worker.idle.wait()
    chunks = [chunk async for chunk in stream]
    assert [len(chunk.token_ids) for chunk in chunks] == [30]


async def test_no_running_stream_misses_a_step_while_a_long_prompt_prefills(
    running: tuple[Worker, WorkerEvents],
) -> None:
    worker, events = running
    streams = [submit(worker) for _ in range(3)]
    await events.steps.until(lambda stats: stats.running == 3)
    first = len(events.steps.all)
    long = submit(worker, [5] * 900, 2)
    await read(long)
    during = [stats for stats in events.steps.all[first:] if stats.running == 4]
    # Beside three streams 38 tokens of a prompt a step: it takes 24 steps, and every one of them has all four rows.
    num_prompt_tokens = (MAX_STRETCH - 1) * (STEP_OVERHEAD["cpu"] + 3)
    assert num_prompt_tokens == 38
    assert len(during) >= 24
    assert {stats.batch_rows for stats in during[:24]} == {4}
    assert {stats.batch_tokens for stats in during[:23]} == {3 + num_prompt_tokens}
    for stream in streams:
        stream.close()
    await events.steps.until(lambda stats: stats.blocks_used == 0)


async def test_a_full_queue_refuses(version: Path) -> None:
    events = WorkerEvents()
    worker = make_worker(options(version, max_sequences=1), events, max_queued_requests=2)
    with pytest.raises(Unavailable, match="not running"):
        submit(worker)
    await worker.start()
    streams = [submit(worker)]
    await events.steps.until(lambda stats: stats.running == 1)
    streams += [submit(worker), submit(worker)]  # these wait
    with pytest.raises(Overloaded, match="as many requests wait already as may"):
        submit(worker)
    await worker.stop()
    for stream in streams:
        with pytest.raises(WorkerLost):
            await read(stream)


async def test_without_a_queue_an_idle_engine_still_takes_what_it_can_run(version: Path) -> None:
    worker = make_worker(options(version, max_sequences=2), max_queued_requests=0)
    await worker.start()
    streams = [submit(worker), submit(worker)]
    with pytest.raises(Overloaded):
        submit(worker)
    assert len(streams) == 2
    await worker.stop()


async def test_stopping_while_it_loads_is_quick_and_silent(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = WorkerEvents()
    worker = make_worker(options(version), events)
    starting = asyncio.create_task(worker.start())
    await asyncio.wait_for(events.warming.wait(), 30)
    starting.cancel()
    await asyncio.wait_for(worker.stop(), 2)
    assert not caplog.records
    assert events.lost.empty()


async def test_a_bug_in_the_engine_reaches_the_log(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = WorkerEvents()
    worker = make_worker(options(version, max_batch_tokens=1), events)
    with pytest.raises(WorkerLost):
        await worker.start()
    await worker.ended.wait()
    assert await events.exits.get() is ExitReason.CRASHED
    assert events.lost.empty(), "it never was ready"
    [record] = [record for record in caplog.records if record.message == "the engine failed"]
    assert "max_batch_tokens (1) must be at least max_sequences" in record.fields["traceback"]


async def test_sigkill_fails_the_streams_at_once(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = WorkerEvents()
    worker = make_worker(options(version), events)
    await worker.start()
    streams = [submit(worker) for _ in range(3)]
    await events.steps.until(lambda stats: stats.running == 3)
    os.kill(worker.process_id, signal.SIGKILL)
    killed_at = time.monotonic()
    for stream in streams:
        with pytest.raises(WorkerLost, match="the engine process ended"):
            await read(stream)
    assert time.monotonic() - killed_at < 20, "not only when somebody asks again"
    assert await asyncio.wait_for(events.lost.get(), 5) is ExitReason.KILLED
    assert await asyncio.wait_for(events.exits.get(), 10) is ExitReason.KILLED
    assert f"{version} was killed by signal 9: killed" in caplog.text
    with pytest.raises(Unavailable):
        submit(worker)


async def test_a_model_that_cannot_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    version = publish_model(tmp_path, "neo", tiny_model("gpt_neo"))
    events = WorkerEvents()
    worker = make_worker(options(tmp_path / "neo" / str(version)), events)
    with pytest.raises(ModelRefused, match="GPTNeoForCausalLM") as refusal:
        await worker.start()
    assert refusal.value.reason == "unsupported_architecture"
    assert await asyncio.wait_for(events.exits.get(), 10) is ExitReason.REFUSED

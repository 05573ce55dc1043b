"""What a request to a real worker process brings besides tokens: scores, limits, shared prompts, predicted waits."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import pytest
import pytest_asyncio
import torch
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import FinishReason, SamplingParameters
from rhapsode_server.errors import DeadlineUnreachable, Overloaded
from rhapsode_server.workers.stream import TokenChunk, TokenStream
from rhapsode_server.workers.worker import Worker
from support.publishing import publish_model
from support.steps import StepLog
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.workers import WorkerEvents, make_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = tuple(range(3, 40))
SEEDED = [{"sampling": SamplingParameters(temperature=1.0, seed=seed)} for seed in (1, 2**63)]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    return root / "tiny" / str(publish_model(root, "tiny", tiny_model("gpt2")))


async def start(version: Path, events: WorkerEvents) -> Worker:
    options = EngineOptions(
        path=str(version),
        vocabulary_size=VOCABULARY_SIZE,
        device="cpu",
        threads=1,
        max_sequences=4,
        max_batch_tokens=64,
    )
    worker = make_worker(options, events, max_queued_tokens=20_000)
    await worker.start()
    return worker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(version: Path) -> AsyncIterator[tuple[Worker, StepLog]]:
    events = WorkerEvents()
    worker = await start(version, events)
    yield worker, events.steps
    await worker.stop()


@pytest.fixture
def worker(running: tuple[Worker, StepLog]) -> Worker:
    return running[0]


async def read(stream: TokenStream) -> TokenChunk:
    """All of it as one chunk."""
    chunks = [chunk async for chunk in stream]
    return TokenChunk(
        [token_id for chunk in chunks for token_id in chunk.token_ids],
        chunks[-1].finish_reason,
        [score for chunk in chunks for score in chunk.scores],
        [score for chunk in chunks for score in chunk.prompt_scores],
        chunks[-1].detail,
    )


async def test_scores_come_with_tokens_and_for_the_prompt(worker: Worker) -> None:
    chunk = await read(worker.submit(prompt_ids=PROMPT, max_new_tokens=5, top_logprobs=2, prompt_top_logprobs=1))
    with torch.inference_mode():
        logprobs = tiny_model("gpt2")(torch.tensor([[*PROMPT, *chunk.token_ids]])).logits[0].log_softmax(-1)
    token_ids = [*PROMPT[1:], *chunk.token_ids]
    scores = [*chunk.prompt_scores, *chunk.scores]
    assert [score.token_id for score in scores] == token_ids
    expected = [float(logprobs[place, token_id]) for place, token_id in enumerate(token_ids)]
    assert [score.logprob for score in scores] == pytest.approx(expected, abs=2e-5)
    assert [len(score.candidates) for score in scores] == 36 * [1] + 5 * [2]


async def test_a_text_to_score_ends_without_tokens(worker: Worker) -> None:
    stream = worker.submit(prompt_ids=[5] * 400, max_new_tokens=0, prompt_top_logprobs=0, first_scored=300)
    chunk = await read(stream)
    assert (chunk.token_ids, chunk.finish_reason, len(chunk.prompt_scores)) == ([], FinishReason.LENGTH, 100)
    assert stream.first_token_at is None


async def test_the_members_of_a_group_share_their_prompt(worker: Worker) -> None:
    group = 7
    fields = {"prompt_ids": PROMPT[::-1], "max_new_tokens": 8}
    streams = [worker.submit(**fields, **seeded, group=group) for seeded in SEEDED]
    together = [(await read(stream)).token_ids for stream in streams]
    assert [stream.num_cached_tokens for stream in streams] == [0, len(PROMPT) - 1]
    assert together == [(await read(worker.submit(**fields, **seeded))).token_ids for seeded in SEEDED]


async def test_a_preamble_that_another_request_had_is_taken_over(running: tuple[Worker, StepLog]) -> None:
    worker, steps = running
    preamble, cached = [7] * 40, []
    for rest in (1, 2):
        stream = worker.submit(prompt_ids=[*preamble, rest], max_new_tokens=2)
        await read(stream)
        cached.append(stream.num_cached_tokens)
    assert cached == [0, 32]
    stats = await steps.until(lambda stats: stats.blocks_used == 0)
    assert 0 < stats.blocks_retained <= stats.blocks_total


async def test_a_time_limit_gives_what_there_is(worker: Worker) -> None:
    ends_at = time.monotonic() + 0.1
    chunk = await read(worker.submit(prompt_ids=PROMPT, max_new_tokens=900, ends_at=ends_at))
    assert chunk.finish_reason is FinishReason.TIME_LIMIT
    assert len(chunk.token_ids) < 900
    assert time.monotonic() > ends_at


async def test_a_deadline_that_has_passed_ends_it_before_it_begins(worker: Worker) -> None:
    stream = worker.submit(prompt_ids=PROMPT, max_new_tokens=9, deadline=time.monotonic())
    chunk = await read(stream)
    assert (chunk.token_ids, chunk.finish_reason) == ([], FinishReason.EXPIRED)
    assert stream.started_at is None


async def test_the_higher_priority_begins_first(running: tuple[Worker, StepLog]) -> None:
    worker, steps = running
    busy = [worker.submit(prompt_ids=PROMPT, max_new_tokens=900) for _ in range(4)]
    await steps.until(lambda stats: stats.running == 4)
    low, high = (worker.submit(prompt_ids=PROMPT, max_new_tokens=1, priority=priority) for priority in (-5, 5))
    await steps.until(lambda stats: stats.waiting == 2)
    busy[0].close()
    await read(low)
    await read(high)
    assert high.started_at is not None
    assert low.started_at is not None
    assert high.started_at < low.started_at
    for stream in busy:
        stream.close()


async def test_the_predicted_wait_is_about_the_real_one(running: tuple[Worker, StepLog]) -> None:
    """A steady load of twenty callers for four places. What it may be off by is judged with a simulated engine."""
    worker, steps = running
    ratios, streams, asked = list[float](), list[TokenStream](), {"prompt_ids": PROMPT, "max_new_tokens": 20}
    predicted: dict[int, float] = {}
    for number in range(220):
        if number >= 20:
            await read(first := streams.pop(0))
            if number >= 140 and first.started_at is not None:
                ratios.append(predicted[id(first)] / (first.started_at - first.submitted_at))
        wait = worker.predicted_wait(len(PROMPT) + 20)
        streams.append(worker.submit(**asked))
        predicted[id(streams[-1])] = wait
    with pytest.raises(DeadlineUnreachable, match="after its deadline") as overloaded:
        worker.submit(**asked, deadline=time.monotonic() + predicted[id(streams[-1])] / 4)
    assert overloaded.value.retry_after > 0
    for stream in streams:
        stream.close()
    await steps.until(lambda stats: stats.blocks_used == 0)
    assert 0.2 < median(ratios) < 5


async def test_a_queue_of_too_many_tokens_refuses(running: tuple[Worker, StepLog]) -> None:
    worker, steps = running
    streams = [worker.submit(prompt_ids=PROMPT, max_new_tokens=900) for _ in range(4 + 20_000 // 937)]
    with pytest.raises(Overloaded):
        worker.submit(prompt_ids=PROMPT, max_new_tokens=900)
    for stream in streams:
        stream.close()
    await steps.until(lambda stats: stats.blocks_used == 0 and stats.waiting == 0)


async def test_after_a_restart_a_seed_gives_the_same_tokens(worker: Worker, version: Path) -> None:
    other = await start(version, WorkerEvents())
    fields = {"prompt_ids": PROMPT, "max_new_tokens": 60}
    for seeded in SEEDED:
        tokens = [(await read(each.submit(**fields, **seeded))).token_ids for each in (worker, other)]
        assert tokens[0] == tokens[1]
        assert len(set(tokens[0])) > 10
    await other.stop()

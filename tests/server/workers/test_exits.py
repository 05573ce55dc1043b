"""How worker processes end, and what is told of it."""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import ModelRefused
from rhapsode_server.errors import Unavailable, WorkerLost
from rhapsode_server.workers.exits import ExitReason, exit_reason
from rhapsode_server.workers.worker import Worker
from support.publishing import publish_model
from support.tiny_models import VOCABULARY_SIZE, tiny_model
from support.workers import WorkerEvents, children_of, make_worker

SECONDS = 20


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    root = tmp_path_factory.mktemp("models")
    path = root / "tiny" / str(publish_model(root, "tiny", tiny_model("gpt2")))
    return EngineOptions(path=str(path), vocabulary_size=VOCABULARY_SIZE, device="cpu", threads=1)


@asynccontextmanager
async def running(options: EngineOptions, **overrides: Any) -> AsyncIterator[tuple[Worker, WorkerEvents]]:
    events = WorkerEvents()
    worker = make_worker(options, events, **overrides)
    await worker.start()
    try:
        yield worker, events
    finally:
        await worker.stop()
        assert worker.launcher.num_serving == 0


async def next_of(reasons: "asyncio.Queue[ExitReason]") -> ExitReason:
    return await asyncio.wait_for(reasons.get(), SECONDS)


async def test_one_that_hangs_is_ended_and_its_streams_fail(
    options: EngineOptions, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(options, step_timeout=0.6) as (worker, events):
        stream = worker.submit(prompt_ids=(5, 6), max_new_tokens=900)
        await events.steps.until(lambda stats: stats.running == 1)
        assert (worker.num_running, worker.num_waiting, worker.load) == (1, 0, 902)
        os.kill(worker.process_id, signal.SIGSTOP)
        stopped_at = time.monotonic()
        assert await next_of(events.lost) is ExitReason.HUNG
        assert time.monotonic() - stopped_at > 0.35, "not before a ping had its time"
        with pytest.raises(WorkerLost):
            async for _ in stream:
                pass
        with pytest.raises(Unavailable):
            worker.submit(prompt_ids=(5, 6), max_new_tokens=1)
        assert await next_of(events.exits) is ExitReason.HUNG
        assert worker.load == 0
    assert events.lost.empty()
    assert events.exits.empty()
    assert "killed by signal 9: hung" in caplog.text


@pytest.mark.slow
async def test_an_idle_one_lives_by_its_pings_whatever_the_clock_of_the_front_end_says(options: EngineOptions) -> None:
    async with running(options, step_timeout=0.6) as (worker, events):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(events.exits.get(), 1.5)
        for _ in range(2):
            time.sleep(1.2)  # noqa: ASYNC251 - the loop stands still, as with SIGSTOP, for twice the limit
            await asyncio.sleep(0)
        stream = worker.submit(prompt_ids=(5, 6), max_new_tokens=2)
        assert sum([len(chunk.token_ids) async for chunk in stream]) == 2
        assert events.lost.empty()
        os.kill(worker.process_id, signal.SIGSTOP)
        assert await next_of(events.lost) is ExitReason.HUNG


async def test_one_that_is_not_ready_in_time_is_refused(options: EngineOptions) -> None:
    events = WorkerEvents()
    worker = make_worker(options, events, load_timeout=0.3)
    with pytest.raises(ModelRefused, match=r"it was not ready within 0.3 s; --load-timeout allows more") as refusal:
        await worker.start()
    assert refusal.value.reason == "load_timeout"
    assert await next_of(events.exits) is ExitReason.LOAD_TIMEOUT
    assert events.lost.empty(), "it never was ready"
    await worker.stop()


async def test_one_that_runs_out_of_memory_says_so(options: EngineOptions) -> None:
    async with running(replace(options, max_batch_tokens=16_384)) as (worker, events):
        warm = worker.submit(prompt_ids=(5, 6), max_new_tokens=2)
        assert sum([len(chunk.token_ids) async for chunk in warm]) == 2
        forbid_more_memory(worker.process_id)
        streams = [worker.submit(prompt_ids=[7] * 900, max_new_tokens=100) for _ in range(60)]
        assert await next_of(events.lost) is ExitReason.OUT_OF_MEMORY
        with pytest.raises(WorkerLost):
            async for _ in streams[0]:
                pass
        assert await next_of(events.exits) is ExitReason.OUT_OF_MEMORY


def forbid_more_memory(process_id: int) -> None:
    used = int(Path(f"/proc/{process_id}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process_id, resource.RLIMIT_AS, (used, used))


def test_an_end_without_a_word() -> None:
    assert [exit_reason(code) for code in (-9, 0, 1)] == [ExitReason.KILLED, ExitReason.CRASHED, ExitReason.CRASHED]


async def test_a_worker_that_was_never_started_can_be_stopped(options: EngineOptions) -> None:
    worker = make_worker(options)
    await worker.stop()
    assert worker.process_id == 0


FRONT_END = """
import asyncio, sys
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import Constraint
from rhapsode_server.workers.launcher import Launcher
from support.workers import make_worker

async def main():
    changed = asyncio.Event()
    launcher = Launcher(keep_standby=True, on_change=changed.set)
    options = EngineOptions(path=sys.argv[1], vocabulary_size=int(sys.argv[2]), threads=1)
    worker = make_worker(options, launcher=launcher)
    await worker.start()
    launcher.refill()
    stream = worker.submit(prompt_ids=(5, 6), max_new_tokens=900, constraint=Constraint("regex", "(a|b)*"))
    async for _ in stream:
        break
    while not launcher.standby_ready:  # before its first line runs, no process can ask to end with another
        changed.clear()
        await changed.wait()
    print(worker.process_id, launcher._standby.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_nothing_outlives_the_front_end_not_even_what_is_stopped(options: EngineOptions) -> None:
    """The worker, the process in which it tries constraints, and the standby."""
    front_end = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FRONT_END,
        options.path,
        str(VOCABULARY_SIZE),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert front_end.stdout is not None
    worker, standby = map(int, (await asyncio.wait_for(front_end.stdout.readline(), 60)).split())
    [trial] = children_of(worker)
    watches = [os.pidfd_open(each) for each in (worker, standby, trial)]
    try:
        for each in (worker, standby, trial):
            os.kill(each, signal.SIGSTOP)
        front_end.kill()
        await asyncio.wait_for(asyncio.gather(*map(end_of, watches)), 10)
        await asyncio.wait_for(front_end.wait(), 10)  # last: its output ends when nobody holds it any more
    finally:
        for watch in watches:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(watch, signal.SIGKILL)
            os.close(watch)


async def end_of(watch: int) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(watch, ended.set)
    await ended.wait()
    loop.remove_reader(watch)

"""Workers that hang or run out of memory, a front-end that is killed."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rhapsode_client import AsyncClient, Completion, Unavailable
from support.operators import Operator, operating
from support.processes import data_size, descendants, is_alive
from support.publishing import publish_tiny
from support.servers import running_server
from support.streams import Oracle, Streams
from support.tiny_models import tiny_model

SOAK = bool(os.environ.get("RHAPSODE_SOAK"))
STEP_TIMEOUT = 3.0
TIMES = 10 if SOAK else 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def operator(root: Path) -> Iterator[Operator]:
    """Of a server with one version of one model."""
    publish_tiny(root, "poems", seed=1, canary=True)
    flags = ["--threads", "1", "--step-timeout", f"{STEP_TIMEOUT}s", "--max-batch-tokens", "4096"]
    with running_server(root, *flags) as server, operating(server, 1) as operator:
        yield operator


@pytest.fixture
async def client(operator: Operator) -> AsyncClient:
    return AsyncClient(operator.server.address, timeout=60)


async def open_streams(client: AsyncClient, count: int) -> "list[asyncio.Task[Completion]]":
    """Streams that have begun and would go on for long."""
    begun = asyncio.Semaphore(0)

    async def read() -> Completion:
        async with client.stream("the sea", max_new_tokens=1000, temperature=1, ignore_eos=True) as stream:
            async for _ in stream:
                begun.release()
            return await stream.result()

    tasks = [asyncio.create_task(read()) for _ in range(count)]
    for _ in tasks:
        await begun.acquire()
    return tasks


async def until_well_again(operator: Operator, lost: int) -> None:
    """It serves from another process, and says what is right."""
    await asyncio.to_thread(operator.until, lambda: operator.worker_of(1) not in (0, lost))
    await asyncio.to_thread(operator.server.wait_serving, "model/poems")
    async with Streams(operator.server.address, count=4) as streams:
        await streams.until_next(4)
    streams.check({1: Oracle(tiny_model("gpt2", seed=1))})
    assert not is_alive(lost)


async def test_a_worker_that_hangs_is_taken_for_dead(operator: Operator, client: AsyncClient) -> None:
    for number in range(1, TIMES + 1):
        streams = await open_streams(client, 4)
        lost, num_lines = operator.worker_of(1), len(operator.server.log)
        os.kill(lost, signal.SIGSTOP)
        stopped_at = time.monotonic()
        ends = await asyncio.gather(*streams, return_exceptions=True)
        seconds = time.monotonic() - stopped_at
        assert all(isinstance(end, Unavailable) and end.retry_after for end in ends)
        assert seconds < 2 * STEP_TIMEOUT + 1
        print(f"taken for dead after {seconds:.1f} s")
        await until_well_again(operator, lost)
        assert operator.server.metric("rhapsode_worker_exits_total", model="poems", reason="hung") == number
        said = "".join(operator.server.log[num_lines:])
        assert "health: NOT_SERVING: poems 1 is" in said
        assert "liveness: NOT_SERVING" not in said, "what the server mends by itself is no reason to restart it"


async def test_a_worker_without_memory_fails_its_own_streams_and_comes_back(
    operator: Operator, client: AsyncClient
) -> None:
    """Not a byte more can be had once the limit is set, and prompts of 1000 tokens need many.

    A limit on address space would leave what the C library has set aside for its heaps: 64 MB for every thread.
    """
    lost = operator.worker_of(1)
    resource.prlimit(lost, resource.RLIMIT_DATA, (data_size(lost), resource.RLIM_INFINITY))
    prompts = [[5 + number] * 1000 for number in range(48)]
    calls = [client.generate(prompt, max_new_tokens=20, temperature=0.0) for prompt in prompts]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(end, Unavailable) for end in ends)
    assert all(isinstance(end, Completion | Unavailable) for end in ends), ends
    await until_well_again(operator, lost)
    assert operator.server.metric("rhapsode_worker_exits_total", model="poems", reason="out_of_memory") == 1
    assert operator.server.metric("rhapsode_kv_blocks_used") == 0


async def test_a_server_that_was_stopped_itself_takes_no_worker_for_hung(
    operator: Operator, client: AsyncClient
) -> None:
    """A laptop that slept: for the workers, as for the front-end, no time has passed."""
    exits = operator.server.metric("rhapsode_worker_exits_total")
    family = [operator.server.process.pid, *descendants(operator.server.process.pid)]
    streams = await open_streams(client, 2)
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2.5 * STEP_TIMEOUT)  # what passes is what is tested
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    assert [end.usage.completion_tokens for end in await asyncio.gather(*streams)] == [1000, 1000]
    assert operator.server.metric("rhapsode_worker_exits_total") == exits


def test_no_process_outlives_a_front_end_that_was_killed(operator: Operator, root: Path) -> None:
    """Neither a worker that hangs, nor one that loads, nor one that waits to become the next. Its last test."""
    operator.until(operator.standby_ready)
    publish_tiny(root, "poems", seed=2)
    operator.until(lambda: operator.states().get(2) == "loading")
    family = descendants(operator.server.process.pid)
    assert len(family) >= 2
    os.kill(operator.worker_of(1), signal.SIGSTOP)
    operator.server.process.kill()
    left = until_gone(family)
    for pid in left:
        os.kill(pid, signal.SIGKILL)  # else it holds the server's output, and the machine
    assert left == [], f"{left} of {family} are still there"


def until_gone(pids: list[int], seconds: float = 5.0) -> list[int]:
    """What is left of them then."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left

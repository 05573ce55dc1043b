"""A worker dies in the middle of its work."""

import asyncio
import os
import signal
import time
from pathlib import Path

from rhapsode_client import AsyncClient, Unavailable
from support.publishing import publish_tiny
from support.servers import running_server


async def test_sigkill_of_a_worker_costs_its_own_callers_one_retry(tmp_path: Path) -> None:
    for name in ("odes", "songs"):
        publish_tiny(tmp_path, name)
    with running_server(tmp_path, "--threads", "1", "--standby", "off") as server:
        server.wait_serving("model/odes")
        [first] = server.worker_processes()[:1]
        server.wait_serving("model/songs")
        async with AsyncClient(server.address, timeout=60) as client:
            ready = asyncio.Semaphore(0)
            streams = {
                name: [asyncio.create_task(read_stream(client, name, ready)) for _ in range(4)]
                for name in ("odes", "songs")
            }
            for _ in range(8):
                await ready.acquire()
            os.kill(first, signal.SIGKILL)
            killed_at = time.monotonic()
            results = {name: await asyncio.gather(*tasks, return_exceptions=True) for name, tasks in streams.items()}
            [killed] = [name for name, outcomes in results.items() if isinstance(outcomes[0], LostAt)]
            [other] = {"odes", "songs"} - {killed}
            assert all(
                isinstance(each, LostAt) and each.time - killed_at < 1 and each.retry_after for each in results[killed]
            )
            assert results[other] == [900] * 4, "the other model does not notice"
            assert server.process.poll() is None
            await asyncio.to_thread(server.wait_serving, f"model/{killed}")
            assert (await client.generate("the sea", model=killed, max_new_tokens=5)).usage.completion_tokens > 0
            assert server.metric("rhapsode_worker_restarts_total", model=killed) == 1
            assert server.metric("rhapsode_kv_blocks_used") == 0


class LostAt(Exception):  # noqa: N818 - not a failure of the test
    def __init__(self, time: float, retry_after: float | None) -> None:
        self.time, self.retry_after = time, retry_after


async def read_stream(client: AsyncClient, model: str, ready: asyncio.Semaphore) -> int:
    try:
        async with client.stream("the sea", model=model, max_new_tokens=900, temperature=1, ignore_eos=True) as stream:
            async for _ in stream:
                ready.release()
                break
            async for _ in stream:
                pass
            return (await stream.result()).usage.completion_tokens
    except Unavailable as error:
        raise LostAt(time.monotonic(), error.retry_after) from error

"""A server from its first look at an empty directory to SIGTERM."""

import asyncio
from pathlib import Path

import pytest
from rhapsode_client import AsyncClient, Unavailable
from support.publishing import publish_tiny
from support.servers import running_server


async def test_from_an_empty_directory_to_sigterm_with_16_streams_open(tmp_path: Path) -> None:
    with running_server(tmp_path, "--threads", "1", "--standby", "off") as server:
        async with AsyncClient(server.address, timeout=30) as client:
            assert await client.health() == "NOT_SERVING"
            assert await client.health("liveness") == "SERVING"
            with pytest.raises(Unavailable, match="no model is published") as unavailable:
                await client.generate("the sea")
            assert unavailable.value.retry_after
            assert any("waiting for the first version to be published" in line for line in server.log)

            publish_tiny(tmp_path, "tiny")
            await asyncio.to_thread(server.wait_serving)
            ready = asyncio.Semaphore(0)
            streams = [asyncio.create_task(stream_to_its_end(client, seed, ready)) for seed in range(16)]
            for _ in streams:
                await ready.acquire()
            server.terminate()
            await asyncio.to_thread(server.wait_serving, serving=False)
            assert await client.health("liveness") == "SERVING"
            with pytest.raises(Unavailable, match="shutting down") as unavailable:
                await client.generate("the sea")
            assert unavailable.value.retry_after
            assert await asyncio.gather(*streams) == [900] * 16
        assert await asyncio.to_thread(server.wait) == 0, server.output
        assert "Traceback" not in server.output


async def stream_to_its_end(client: AsyncClient, seed: int, ready: asyncio.Semaphore) -> int:
    async with client.stream("the sea", seed=seed, temperature=1.0, max_new_tokens=900, ignore_eos=True) as stream:
        async for _ in stream:
            ready.release()
            break
        async for _ in stream:
            pass
        return (await stream.result()).usage.completion_tokens


async def test_sigterm_while_a_version_loads(tmp_path: Path) -> None:
    publish_tiny(tmp_path, "tiny")
    with running_server(tmp_path, "--standby", "off") as server:
        await asyncio.to_thread(server.wait_log, "loading")
        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0, server.output
        assert "Traceback" not in server.output
        assert "ended; it is started again" not in server.output

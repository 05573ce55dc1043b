"""A new version arrives while streams run, for real."""

import asyncio
from pathlib import Path

from rhapsode_client import AsyncClient
from support.publishing import publish_tiny
from support.reference import generate_greedily
from support.servers import running_server

PROMPT = [5, 6, 7]
LENGTH = 900


async def test_streams_end_on_the_version_they_began_on_and_none_is_dropped(tmp_path: Path) -> None:
    models = {1: publish_tiny(tmp_path, "tiny", seed=1)}
    with running_server(tmp_path, "--threads", "1") as server:
        server.wait_serving()
        async with AsyncClient(server.address, timeout=60) as client:
            moved = asyncio.Event()
            callers = [asyncio.create_task(call_until(client, moved)) for _ in range(8)]
            models[2] = await asyncio.to_thread(publish_tiny, tmp_path, "tiny", seed=2)
            answers = [answer for answers in await asyncio.gather(*callers) for answer in answers]
        server.terminate()
        assert server.wait() == 0
    assert {version for version, _ in answers} == {1, 2}
    expected = {version: generate_greedily(model, PROMPT, LENGTH) for version, model in models.items()}
    assert all(tokens == expected[version] for version, tokens in answers), "no stream mixes two versions"


async def call_until(client: AsyncClient, moved: asyncio.Event) -> list[tuple[int, list[int]]]:
    """Stream after stream until one is answered by version 2: which version answered each, and its tokens."""
    answers = []
    while not moved.is_set():
        tokens: list[int] = []
        async with client.stream(PROMPT, temperature=0, max_new_tokens=LENGTH, token_ids=True) as stream:
            async for delta in stream:
                tokens += delta.token_ids
        assert stream.started
        answers.append((stream.started.version, tokens))
        if stream.started.version == 2:
            moved.set()
    return answers

"""A publisher is killed at random moments while a server follows what it publishes and 16 callers stream.

RHAPSODE_SOAK=1 kills it 50 times instead of 4.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import rhapsode_contract
from rhapsode_contract.model_directory import ModelFolder
from support.fleet import Fleet
from support.operators import Operator
from support.publishing import publish_tiny
from support.servers import running_server
from support.streams import Oracle, Streams

KILLS = 50 if os.environ.get("RHAPSODE_SOAK") else 4
LONGEST = 0.3
"""Seconds that a publisher lives: a few versions at most, so that kills fall into every phase of publishing."""
HOUR = 3600
WEIGHTS = "model.safetensors"


@pytest.mark.timeout(1800)
async def test_a_publisher_killed_at_random_moments_costs_no_stream(tmp_path: Path) -> None:
    oracles = {seed: Oracle(publish_tiny(tmp_path, "sources", seed=seed, canary=True)) for seed in (1, 2)}
    sources = [tmp_path / "sources" / str(seed) for seed in (1, 2)]
    root = tmp_path / "models"
    fleet = Fleet(root)
    fleet.folder.path.mkdir(parents=True)
    chance = random.Random(5)
    kill(start(fleet.folder, 0, sources), published=1)
    with running_server(root, "--threads", "1", "--probation", "0s", "--standby", "off") as server:
        server.wait_serving()
        with Operator(server) as operator:
            async with Streams(server.address) as streams:
                for number in range(1, KILLS + 1):
                    process = await asyncio.to_thread(start, fleet.folder, number, sources)
                    await asyncio.to_thread(kill, process, after=chance.uniform(0, LONGEST))
                    await streams.until_next(4)
                champion = fleet.folder.resolve("champion")
                await asyncio.to_thread(operator.until_serving, champion)
                await streams.until_answered_by(champion)
            assert "quarantined" not in operator.states().values()
        streams.check(by_version(fleet.folder, sources, oracles))
        assert server.metric("rhapsode_quarantines_total") == 0
        assert server.metric("rhapsode_worker_restarts_total") == 0
        assert "Traceback" not in server.output
    served = {answer.version for answer in streams.answers}
    print(
        f"{KILLS} kills, {len(fleet.folder.versions())} versions, {len(served)} served, {len(streams.answers)} streams"
    )


def start(folder: ModelFolder, number: int, sources: list[Path]) -> "subprocess.Popen[bytes]":
    """On a clock an hour after the one before, so that the lease of a dead one is stale."""
    script = Path(__file__).with_name("version_publisher.py")
    # Without the site packages Python starts several times faster.
    command = [sys.executable, "-S", script, folder.path, str(number * HOUR), *sources]
    environment = {**os.environ, "PYTHONPATH": str(Path(rhapsode_contract.__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment)


def kill(process: "subprocess.Popen[bytes]", *, after: float = 0.0, published: int = 0) -> None:
    """So many seconds after it began to publish, or as soon as it has published so many."""
    with process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"("
        while published:
            published -= process.stdout.read(1) == b")"
        time.sleep(after)
        process.kill()


def by_version(folder: ModelFolder, sources: list[Path], oracles: Mapping[int, Oracle]) -> dict[int, Oracle]:
    """What each version says, by whose weights it has."""
    contents = {(source / WEIGHTS).read_bytes(): oracles[int(source.name)] for source in sources}
    return {version: contents[(folder.path / str(version) / WEIGHTS).read_bytes()] for version in folder.versions()}

"""The champion moves again and again while callers stream: nobody notices.

RHAPSODE_SOAK=1 swaps 100 times each way instead of twice.
"""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.operators import Operator, operating
from support.processes import descendants, num_descriptors, resident_mib
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server
from support.streams import Oracle, Streams

SWAPS = 100 if os.environ.get("RHAPSODE_SOAK") else 2
MIB_A_SERVER = 24.0
"""What the front-end may have grown: caches that fill once, a heap in pieces."""

WAYS = {"new worker": "0s", "warm worker": "10m"}
if SWAPS == 2:
    WAYS.pop("warm worker")


@dataclass(frozen=True)
class Holdings:
    """What a server holds of the machine while nobody calls it."""

    processes: int
    descriptors: int
    mib: float
    workers_mib: float

    @classmethod
    def of(cls, server: ServerProcess) -> "Holdings":
        pids = descendants(server.process.pid)
        workers_mib = sum(map(resident_mib, pids))
        front_end = server.process.pid
        return cls(len(pids), num_descriptors(front_end), resident_mib(front_end), workers_mib)

    def is_back_to(self, before: "Holdings") -> bool:
        return (self.processes, self.descriptors) == (before.processes, before.descriptors)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
async def test_swaps_under_16_streams_drop_and_mix_none_and_leave_nothing_behind(way: str, tmp_path: Path) -> None:
    oracles = {seed: Oracle(publish_tiny(tmp_path, "poems", seed=seed, canary=True)) for seed in (1, 2)}
    fleet = Fleet(tmp_path)
    with running_server(tmp_path, "--threads", "1", "--probation", WAYS[way]) as server:
        with operating(server, 2) as operator:
            if way == "warm worker":
                await swap(fleet, operator, server, times=2)  # from then on both are loaded
            before = await at_rest(operator, server)
            streams, seconds = await swap(fleet, operator, server, times=SWAPS)
            after = await at_rest(operator, server, before)
        streams.check(oracles)
        say_what_was_seen(way, streams, seconds, before, after)
        assert after.mib - before.mib < MIB_A_SERVER
        assert after.workers_mib < 1.1 * before.workers_mib + 32
        num_swaps = SWAPS + (2 if way == "warm worker" else 0)
        assert server.metric("rhapsode_swaps_total", model="poems", result="moved") == num_swaps
        assert server.metric("rhapsode_worker_restarts_total") == 0
        assert server.metric("rhapsode_quarantines_total") == 0
        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0
        assert "Traceback" not in server.output


async def swap(fleet: Fleet, operator: Operator, server: ServerProcess, *, times: int) -> tuple[Streams, list[float]]:
    """Each time until the new version answers. Returns the seconds that each took from the change of the alias."""
    seconds = []
    async with Streams(server.address) as streams:
        for _ in range(times):
            await streams.until_next(16)
            [current] = operator.serving()
            fleet.promote(3 - current)
            seconds.append(await asyncio.to_thread(operator.until_serving, 3 - current))
            await streams.until_answered_by(3 - current)
    return streams, seconds


async def at_rest(operator: Operator, server: ServerProcess, before: Holdings | None = None) -> Holdings:
    """Once the next standby is ready and, if it is told what was held `before`, as much is held again."""

    def is_at_rest() -> bool:
        settled = operator.standby_ready() and set(operator.states().values()) <= {"serving", "ready", "unloaded"}
        return settled and (before is None or Holdings.of(server).is_back_to(before))

    await asyncio.to_thread(operator.until, is_at_rest)
    return Holdings.of(server)


def say_what_was_seen(way: str, streams: Streams, seconds: list[float], before: Holdings, after: Holdings) -> None:
    seconds = sorted(seconds)
    print(f"{len(seconds)} swaps, {way}: median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s")
    print(f"streams by version: {dict(Counter(answer.version for answer in streams.answers))}")
    print(f"before: {before}\nafter:  {after}")

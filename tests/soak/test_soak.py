"""Everything at once, again and again: nothing is lost, doubled or mixed up, and nothing grows.

Callers of all kinds (whole answers, streams, slow readers, batches, scores, tokens; some leave, some are impatient)
come by TLS while a model is swapped, its worker killed, the certificate renewed, and 1,000 streams are open at a time.
After each round the server is at rest and every call is accounted for. RHAPSODE_SOAK=1 goes on for an hour, or for
RHAPSODE_SOAK_SECONDS; otherwise it is two rounds.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest
from support.certificates import HAS_OPENSSL, WITHOUT_OPENSSL
from support.fleet import Fleet
from support.publishing import publish_tiny
from support.streams import PROMPTS

from .calls import Caller, Said
from .census import Census, growth
from .ledger import Ledger
from .target import Control, Target, is_at_rest, running_target, worker

SECONDS = int(os.environ.get("RHAPSODE_SOAK_SECONDS", "3600")) if os.environ.get("RHAPSODE_SOAK") else 0
LEAST_ROUNDS = 2
ENOUGH_ROUNDS = 12
"""From so many on, growth can be told from noise."""
NUM_STREAMS = 1000
NUM_CALLERS = 8
SECONDS_OF_TRAFFIC = 8.0 if SECONDS else 1.0
MOST_GROWTH = 0.02

FLAGS = ("--threads", "1", "--probation", "0s", "--max-queued-requests", "2000", "--max-queued-tokens", "1000000")
METHODS = ("Generate", "GenerateStream", "GenerateBatch", "Score", "Tokenize", "Detokenize")


@dataclass(kw_only=True, repr=False)
class Soak:
    """Rounds on one server. `poems` is swapped between two versions, and its worker killed; `songs` is left alone, so
    that its worker lives as long as the server."""

    target: Target
    control: Control
    fleet: Fleet
    oracles: dict[str, dict[int, Said]]
    steady: int
    ledger: Ledger = field(default_factory=Ledger)
    wrong: list[str] = field(default_factory=list)
    censuses: list[Census] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    version: int = 2

    async def round(self) -> None:
        """A worker is killed in every other one."""
        async with self._traffic():
            await self._open_many()
            await self._swap()
            if len(self.censuses) % 2:
                await self._kill()
            await self.target.renew()
            await asyncio.sleep(SECONDS_OF_TRAFFIC)
        await self._settle()

    @asynccontextmanager
    async def _traffic(self) -> AsyncIterator[None]:
        """Callers that come and come; all have their answers at the end."""
        ended = asyncio.Event()
        async with self.target.channel() as channel:
            caller = self._caller(channel)
            callers = [asyncio.create_task(self._call_on(caller, ended)) for _ in range(NUM_CALLERS)]
            try:
                yield
            finally:
                ended.set()
                await asyncio.gather(*callers)

    async def _call_on(self, caller: Caller, ended: asyncio.Event) -> None:
        while not ended.is_set():
            kind, model = self.dice.choice([*caller.kinds]), self.dice.choice(["poems", "songs"])
            await caller.until_answered(kind, model, self.dice.randrange(len(PROMPTS)))

    async def _open_many(self) -> None:
        """The worker that is to answer them stands still until all are open."""
        os.kill(self.steady, signal.SIGSTOP)
        async with self.target.channel() as channel:
            caller = self._caller(channel)
            calls = [caller.until_answered("stream", "songs", n % len(PROMPTS)) for n in range(NUM_STREAMS)]
            tasks = [asyncio.create_task(call) for call in calls]
            try:
                await self.control.until(lambda status: status.open_calls >= NUM_STREAMS)
            finally:
                os.kill(self.steady, signal.SIGCONT)
                await asyncio.gather(*tasks)

    async def _swap(self) -> None:
        self.version = 3 - self.version
        self.fleet.promote(self.version)
        await self.control.until_serving("poems", self.version)

    async def _kill(self) -> None:
        lost = await self.control.until_serving("poems", self.version)
        os.kill(lost, signal.SIGKILL)
        await self.control.until(lambda status: worker(status, "poems") not in (0, lost))

    async def _settle(self) -> None:
        """At rest every call has its line in the log, and no more is held than after the first round."""
        await self.control.until(is_at_rest)
        async with self.target.channel() as channel:
            await self._caller(channel).tokenize("songs", 0)  # whatever was said before is read when its line is
        await self._until(self._has_read_all)
        self.wrong += self.ledger.settle()
        assert self.wrong == [], "\n".join(self.wrong[:20])
        await self._until(self._holds_no_more)
        self.censuses.append(self._census())

    def _has_read_all(self) -> bool:
        lines = self.target.server.take_log()
        self.wrong += [line for line in lines if "Traceback" in line]
        self.ledger.read(lines)
        return not self.ledger.open_ends()

    def _holds_no_more(self) -> bool:
        return not self.censuses or self._census().counts == self.censuses[0].counts

    def _census(self) -> Census:
        return Census.take(self.target.server, self.steady)

    async def _until(self, holds: object) -> None:
        deadline = time.monotonic() + 30
        while not holds():  # type: ignore[operator]
            assert time.monotonic() < deadline, f"{self.ledger.open_ends()[:9]} {self.censuses[:1]} {self._census()}"
            await asyncio.sleep(0.05)

    def _caller(self, channel: object) -> Caller:
        return Caller(
            channel=channel,  # type: ignore[arg-type]
            ledger=self.ledger,
            oracles=self.oracles,
            wrong=self.wrong,
            dice=self.dice,
        )


@pytest.mark.skipif(not HAS_OPENSSL, reason=WITHOUT_OPENSSL)
@pytest.mark.timeout(SECONDS + 600)
async def test_nothing_is_lost_or_doubled_and_nothing_grows(tmp_path: Path) -> None:
    oracles = publish_all(tmp_path / "models")
    with running_target(tmp_path / "models", tmp_path / "tls", *FLAGS) as target:
        async with Control.of(target) as control:
            status = await control.until(is_at_rest)
            fleet = Fleet(tmp_path / "models")
            soak = Soak(target=target, control=control, fleet=fleet, oracles=oracles, steady=worker(status, "songs"))
            began = time.monotonic()
            while len(soak.censuses) < LEAST_ROUNDS or time.monotonic() - began < SECONDS:
                await soak.round()
        say_what_was_seen(soak)
        check_counters(soak)
        check_growth(soak.censuses)
        target.server.terminate()
        assert await asyncio.to_thread(target.server.wait) == 0


def publish_all(root: Path) -> dict[str, dict[int, Said]]:
    poems = {seed: Said(publish_tiny(root, "poems", seed=seed, canary=True)) for seed in (1, 2)}
    return {"poems": poems, "songs": {1: Said(publish_tiny(root, "songs", seed=3, canary=True))}}


def check_counters(soak: Soak) -> None:
    """They say what the log says, line by line; of the model whose series live as long, also the tokens."""
    server = soak.target.server
    counted = {
        (method, outcome): server.metric("rhapsode_calls_total", method=method, outcome=outcome)
        for method, outcome in soak.ledger.logged
    }
    assert counted == soak.ledger.logged
    assert sum(server.metric("rhapsode_calls_total", method=method) for method in METHODS) == sum(counted.values())
    assert server.metric("rhapsode_generated_tokens_total", model="songs") == soak.ledger.generated["songs"]


def check_growth(censuses: list[Census]) -> None:
    if len(censuses) < ENOUGH_ROUNDS:
        return
    settled = censuses[len(censuses) // 4 :]
    for name in ("front_end", "steady"):
        grown = growth([getattr(census, name).mib for census in settled])
        assert grown <= MOST_GROWTH, f"{name} grew by {grown:.1%}: {[getattr(each, name).mib for each in censuses]}"
    assert growth([census.others_mib for census in settled]) <= MOST_GROWTH
    threads, half = [census.num_threads for census in settled], len(settled) // 2
    assert median(threads[half:]) <= median(threads[:half]), threads


def say_what_was_seen(soak: Soak) -> None:
    first, last = soak.censuses[0], soak.censuses[-1]
    print(f"{len(soak.censuses)} rounds; calls by their end: {dict(soak.ledger.sent)}")
    print(f"lines of the log: {dict(sorted(soak.ledger.logged.items()))}; tokens: {dict(soak.ledger.generated)}")
    print(f"after the first round: {first}\nafter the last round:  {last}")
    for name in ("front_end", "steady"):
        print(f"{name}, MiB a round: {[round(getattr(census, name).mib, 1) for census in soak.censuses]}")
    print(f"threads a round: {[census.num_threads for census in soak.censuses]}")
    print(f"others, MiB a round: {[round(census.others_mib, 1) for census in soak.censuses]}")

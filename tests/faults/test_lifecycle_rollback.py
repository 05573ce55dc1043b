"""Versions that pass every check at load and are worse only once callers use them: traffic goes back by itself."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rhapsode_client import AsyncClient, Completion, RhapsodeError
from support.damage import fails_from_position
from support.fleet import Fleet
from support.operators import Operator, operating
from support.publishing import publish_model
from support.servers import ServerProcess, running_server
from support.streams import Oracle, Streams
from support.tiny_models import tiny_model

GOOD = 1
SOAK = bool(os.environ.get("RHAPSODE_SOAK"))
FIRST_BAD_POSITION = 200


@dataclass(frozen=True)
class Place:
    """Version 1 serves; the others are published, and nothing points to them yet."""

    server: ServerProcess
    operator: Operator
    fleet: Fleet
    feedback: Path
    versions: dict[str, int]

    def verdict(self, version: int) -> dict[str, Any]:
        """What the server told the trainer of a version."""
        [file] = self.feedback.glob(f"poems/{version}.*.json")
        document: dict[str, Any] = json.loads(file.read_text())
        return document

    def try_version(self, kind: str) -> int:
        version = self.versions[kind]
        self.fleet.promote(version)
        self.operator.until_serving(version)
        return version

    def check_rolled_back(self, version: int, reason: str) -> None:
        assert self.operator.reason(version) == reason
        assert self.operator.serving() == {GOOD}
        self.server.wait_log(f"poems version {version} is quarantined: {reason}")
        self.operator.until(lambda: self.verdict(version)["verdict"] == "rolled_back")
        assert reason in self.verdict(version)["reason"]
        assert self.server.metric("rhapsode_quarantines_total", model="poems", reason=reason) == 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root, feedback = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("feedback")
    models = {
        "good": tiny_model("gpt2", seed=1),
        "NaN": fails_from_position(tiny_model("gpt2", seed=2), FIRST_BAD_POSITION),
        "crash": tiny_model("gpt2", seed=3),
        "slow": tiny_model("gpt2", seed=4, n_layer=48),
    }
    versions = {kind: publish_model(root, "poems", model, canary=True) for kind, model in models.items()}
    fleet = Fleet(root)
    fleet.promote(GOOD)
    flags = ["--threads", "1", "--feedback-dir", str(feedback), "--max-slowdown", "4", "--standby", "off"]
    with running_server(root, *flags) as server, operating(server, GOOD) as operator:
        yield Place(server, operator, fleet, feedback, versions)


async def call_until(place: Place, holds: Callable[[], object], **options: Any) -> list[Completion | RhapsodeError]:
    """One call at least, then one after another until it holds: what became of each."""
    ends: list[Completion | RhapsodeError] = []
    async with AsyncClient(place.server.address, timeout=60) as client:
        while not ends or not await asyncio.to_thread(holds):
            try:
                ends.append(await client.generate("the sea", model="poems", ignore_eos=True, **options))
            except RhapsodeError as error:
                ends.append(error)
            assert len(ends) < 100, place.server.output
    return ends


async def test_nan_after_200_tokens_is_rolled_back_after_the_third(place: Place) -> None:
    bad = await asyncio.to_thread(place.try_version, "NaN")
    [short] = await call_until(place, lambda: True, max_new_tokens=50)
    assert isinstance(short, Completion)
    assert short.version == bad, "it passed every check, and says something"
    ends = await call_until(place, lambda: place.operator.serving() == {GOOD}, max_new_tokens=300)
    failures = [end for end in ends if isinstance(end, RhapsodeError)]
    assert 3 <= len(failures) <= 5
    place.check_rolled_back(bad, "non_finite_logits")
    assert place.server.metric("rhapsode_swaps_total", model="poems", result="rolled_back") >= 1
    async with Streams(place.server.address, count=4) as streams:
        await streams.until_next(4)
    streams.check({GOOD: Oracle(tiny_model("gpt2", seed=1))})


async def test_a_worker_that_dies_within_probation_takes_its_version_with_it(place: Place) -> None:
    bad = await asyncio.to_thread(place.try_version, "crash")
    os.kill(place.operator.worker_of(bad), 9)
    seconds = await asyncio.to_thread(place.operator.until_serving, GOOD)
    assert seconds < 5, "the version before is still warm"
    await asyncio.to_thread(place.operator.until, lambda: place.operator.reason(bad))
    place.check_rolled_back(bad, "worker_crashed")


@pytest.mark.skipif(not SOAK, reason="compares times, for which the machine must be quiet")
async def test_a_version_that_is_far_slower_is_rolled_back(place: Place) -> None:
    await call_until(place, lambda: True, max_new_tokens=900)
    bad = await asyncio.to_thread(place.try_version, "slow")
    ends = await call_until(place, lambda: place.operator.serving() == {GOOD}, max_new_tokens=400)
    assert all(isinstance(end, Completion) for end in ends), "slow answers are answers"
    place.check_rolled_back(bad, "latency")

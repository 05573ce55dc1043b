"""A publisher is killed with SIGKILL at a hundred random moments of publishing."""

import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import rhapsode_contract
from rhapsode_contract.model_directory import (
    Lease,
    ModelFolder,
    collect_garbage,
    files,
    lease,
    publish,
    verify_version,
)

KILLS = 100
WEIGHT_BYTES = 4 * 2**20
HOUR = 3600


class QuickDisk:
    """`os` whose fsync costs nothing, for this process: the killed ones sync for real."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        os.fstat(descriptor)


class World:
    """A model, and a clock that goes on by an hour for each publisher, so that the lease of a dead one is stale."""

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self.hours = 0

    def clock(self) -> float:
        return time.time() + self.hours * HOUR

    def start(self) -> subprocess.Popen[bytes]:
        """A publisher that publishes until it is killed, and tells its phases."""
        self.hours += 1
        script = Path(__file__).with_name("publisher.py")
        # Without the site packages Python starts several times faster.
        command = [sys.executable, "-S", script, self.folder.path, str(self.hours * HOUR), str(WEIGHT_BYTES), "never"]
        environment = {**os.environ, "PYTHONPATH": str(Path(rhapsode_contract.__file__).parents[1])}
        return subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment)

    def publish_one(self) -> int:
        self.hours += 1

        def write(staging: Path) -> None:
            (staging / "config.json").write_text("{}")

        with Lease.acquire(self.folder, owner="next") as held:
            version = publish(
                self.folder, held, write=write, dtype="float32", parameter_count=1, actor="next", reason="test"
            )
            collect_garbage(self.folder, held, keep=1, grace=timedelta(0))
        return version


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(ModelFolder(tmp_path / "poems"))
    monkeypatch.setattr(lease, "time", SimpleNamespace(time=world.clock))
    monkeypatch.setattr(files, "os", QuickDisk())
    return world


def test_sigkill_at_random_moments_harms_no_reader_and_no_later_publisher(world: World) -> None:
    chance = random.Random(20)
    duration = publish_seconds(world)
    phases: Counter[str] = Counter()
    newest = world.publish_one()
    while sum(phases.values()) < KILLS:
        phase = kill_after(world, chance.uniform(0, duration))
        phases[phase] += phase != ")"
        check_as_a_reader(world.folder)
        left = world.folder.versions()
        assert max(left) >= newest
        newest = world.publish_one()
        assert newest == max(left) + 1
        assert world.folder.resolve("champion") == newest
    print(f"publishing takes {1000 * duration:.0f} ms; killed after the phases {dict(phases)}")
    assert phases["("] > 0
    assert phases["w"] > 0


def publish_seconds(world: World) -> float:
    """How long one undisturbed publish takes: the median of five."""
    with world.start() as process:
        assert process.stdout is not None
        ends: list[float] = []
        while len(ends) < 6:
            phase = process.stdout.read(1)
            assert phase, "the publisher died by itself"
            ends += [time.monotonic()] if phase == b")" else []
        process.kill()
    return statistics.median(after - before for before, after in pairwise(ends))


def kill_after(world: World, delay: float) -> str:
    """Kills a publisher so many seconds after it began to publish; returns the last phase that it told."""
    with world.start() as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"("
        time.sleep(delay)
        process.kill()
        return (b"(" + process.stdout.read()).decode()[-1]


def check_as_a_reader(folder: ModelFolder) -> None:
    for version in folder.versions():
        verify_version(folder.version_path(version))
    assert set(folder.aliases().values()) <= set(folder.versions())
    folder.history()

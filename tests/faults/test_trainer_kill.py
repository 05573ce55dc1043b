"""`rhapsode-train run` is killed at random moments of each phase, and asked to stop in each.

RHAPSODE_SOAK=1 kills it 204 times instead of 12, 34 times in each phase.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from rhapsode_contract.model_directory import ModelFolder, verify_version
from rhapsode_trainer.checkpoints import Checkpoints

PHASES = ("tokenise", "evaluate-before", "train", "checkpoint", "evaluate-after", "publish")
KILLS_A_PHASE = 34 if os.environ.get("RHAPSODE_SOAK") else 2
HOUR = 3600
INTERRUPTED = 75
GRACE_SECONDS = 20


class Ending(NamedTuple):
    """How a run ended: what it had announced and when, and its exit code (negative: the signal)."""

    lines: list[str]
    times: list[float]
    code: int

    @property
    def phase(self) -> str:
        last = self.lines[-1].split()[0]
        return "train" if last == "saved" else last

    @property
    def saved(self) -> int:
        """The last step known to be saved."""
        return max((int(line.split()[1]) for line in self.lines if line.startswith("saved ")), default=0)

    def seconds(self, phase: str) -> float:
        """How long the phase took, the first time."""
        start = self.lines.index(phase)
        return self.times[start + 1] - self.times[start]


class Jobs:
    """Starts runs, each on a clock an hour after the one before, so that the lease of a dead one is stale."""

    def __init__(self, process: subprocess.Popen[str], fifo: Path) -> None:
        self.process = process
        self.fifo = fifo
        self.count = 0

    def run(self, folder: Path, *, strike: str = "", after: float = 0.0, skip: int = 0, by: int = 0) -> Ending:
        """Runs in `folder` and sends it the signal `by` so many seconds after the phase `strike` began.

        `skip` is how many times that phase is let pass, for one that comes again and again.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.count += 1
        self.process.stdin.write(f"{folder} {self.fifo} {self.count * HOUR}\n")
        self.process.stdin.flush()
        job = int(self.process.stdout.readline())
        lines, times = [], []
        with self.fifo.open() as announced:
            for line in announced:
                lines.append(line.strip())
                times.append(time.monotonic())
                if line.split()[0] == strike:
                    skip -= 1
                    if skip == -1:
                        time.sleep(after)
                        with suppress(ProcessLookupError):  # it was quicker
                            os.kill(job, by)
        return Ending(lines, times, os.waitstatus_to_exitcode(int(self.process.stdout.readline())))


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    fifo = tmp_path_factory.mktemp("jobs") / "phases"
    os.mkfifo(fifo)
    command = [sys.executable, str(Path(__file__).with_name("trainer_job.py"))]
    pipe = subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        yield Jobs(process, fifo)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> "Undisturbed":
    folder = tmp_path_factory.mktemp("undisturbed")
    ending = jobs.run(folder)
    assert ending.code == 0, (folder / "log").read_text()
    assert [line for line in ending.lines if line != "checkpoint"] == [
        *("prepare", "tokenise", "evaluate-before", "train"),
        *("saved 2", "saved 4", "saved 6", "saved 8", "saved 10", "evaluate-after", "publish", "published"),
    ]
    return Undisturbed(weights(folder), {phase: ending.seconds(phase) for phase in PHASES})


class Undisturbed(NamedTuple):
    """What a run does if nobody disturbs it: the sha256 of the weights it publishes, and how long its phases take."""

    weights: str
    seconds: dict[str, float]


def test_sigkill_in_any_phase_harms_no_reader_and_the_next_run_goes_on(
    jobs: Jobs, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    chance = random.Random(7)
    killed: Counter[str] = Counter()
    published = trials = 0
    folder = tmp_path / "0"
    before = 0
    while min(killed[phase] for phase in PHASES) < KILLS_A_PHASE:
        strike = min(PHASES, key=lambda phase: (killed[phase], chance.random()))
        after = chance.uniform(0, undisturbed.seconds[strike])
        skip = chance.randrange(3) if strike == "checkpoint" else 0
        ending = jobs.run(folder, strike=strike, after=after, skip=skip, by=signal.SIGKILL)
        trials += 1
        assert trials < 40 * KILLS_A_PHASE
        saved = check(folder)
        if ending.code == -signal.SIGKILL:
            killed[ending.phase] += 1
            assert (saved or 0) >= max(before, ending.saved), "no progress is ever lost"
            before = saved or 0
        else:
            assert ending.code == 0, (folder / "log").read_text()
        if ModelFolder(folder / "models/poems").aliases():
            assert weights(folder) == undisturbed.weights
            published += 1
            folder, before = tmp_path / str(published), 0
    print(f"{sum(killed.values())} kills in {trials} trials: {dict(killed)}; {published} versions published")
    assert jobs.run(folder).code == 0
    assert weights(folder) == undisturbed.weights


@pytest.mark.parametrize("phase", ["prepare", *PHASES])
def test_sigterm_in_any_phase_publishes_nothing_and_the_next_run_goes_on(
    phase: str, jobs: Jobs, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    start = time.monotonic()
    ending = jobs.run(tmp_path, strike=phase, by=signal.SIGTERM)
    assert time.monotonic() - start < GRACE_SECONDS
    assert ending.code == INTERRUPTED, (tmp_path / "log").read_text()
    saved = check(tmp_path)
    assert saved == (ending.saved or None)
    assert (saved is None) == (phase in ("prepare", "tokenise", "evaluate-before"))
    assert "evaluate-after" not in ending.lines or phase in ("evaluate-after", "publish")
    assert ModelFolder(tmp_path / "models/poems").aliases() == {}
    assert jobs.run(tmp_path).code == 0
    assert weights(tmp_path) == undisturbed.weights


def check(folder: Path) -> int | None:
    """What a reader of either folder relies on. Returns the step of the checkpoint to go on from, 99 if published."""
    models = ModelFolder(folder / "models/poems")
    for version in models.versions():
        verify_version(models.version_path(version))
    assert set(models.aliases().values()) <= set(models.versions())
    if models.aliases():
        return 99
    found = list((folder / "work/poems/checkpoints").glob("checkpoint-*/MANIFEST.json"))
    assert len(found) <= 3
    return max((step for step in map(whole_step, found) if step), default=None)


def whole_step(manifest: Path) -> int | None:
    """The step of a checkpoint whose manifest and files agree."""
    document = json.loads(manifest.read_bytes())
    newest = Checkpoints(path=manifest.parents[1], key=document["key"]).newest()
    return int(newest.name.removeprefix("checkpoint-")) if newest == manifest.parent else None


def weights(folder: Path) -> str:
    models = ModelFolder(folder / "models/poems")
    content = (models.version_path(models.resolve("champion")) / "model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()

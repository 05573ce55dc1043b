"""Training within a budget, on a clock that the test moves; and once on the real one."""

import json
import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from rhapsode_trainer.budget import Budget
from rhapsode_trainer.errors import Interrupted
from rhapsode_trainer.training.saving import Saving


class Clock:
    """Ten seconds for each step."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def __call__(self) -> float:
        return 10.0 * len(self.run.steps)


def rates(log: list[dict[str, float]]) -> list[float]:
    return [entry["learning_rate"] for entry in log if "learning_rate" in entry]


def test_the_decay_is_finished_in_fewer_steps(tiny: Callable[..., Any]) -> None:
    run = tiny(max_steps=60, warmup_steps=4)
    log = run.train(budget=Budget(400, reserve=100, started=0, clock=Clock(run)))
    measured = rates(log)
    assert 25 <= len(measured) <= 30
    assert run.steps == list(range(1, len(measured) + 1))
    assert measured[4] == 0.01 == max(measured), "the warm-up was over before the rate was known"
    steps = [before - after for before, after in pairwise(measured[4:])]
    assert all(step > 0 for step in steps)
    assert measured[-1] <= max(steps) * 1.01, "the next would be zero"


def test_enough_time_changes_nothing(tiny: Callable[..., Any]) -> None:
    free, run = tiny(), tiny()
    free.train()
    run.train(budget=Budget(1e6, reserve=1, started=0, clock=Clock(run)))
    assert torch.equal(run.weights(), free.weights())


def test_the_same_rate_gives_the_same_weights_and_so_does_going_on(tiny: Callable[..., Any]) -> None:
    weights = []
    for stop in (None, 20):
        run = tiny(max_steps=60)
        started = Clock(run)
        if stop is not None:
            run.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 20 else None
            with pytest.raises(Interrupted):
                run.train(budget=Budget(400, reserve=100, started=0, clock=started))
            run.on_step = lambda step: None
        run.train(budget=Budget(400, reserve=100, started=0, clock=started))
        weights.append(run.weights())
        end = json.loads((run.checkpoints.path / f"checkpoint-{run.saved()[-1]}/loop.json").read_text())["schedule"][-1]
        assert end[0] == run.saved()[-1]
        steps = list(run.steps)
        run.train(budget=Budget(400, reserve=100, started=0, clock=started))
        assert steps
        assert run.steps == [], "what ended early is finished"
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", ["cosine", "constant_with_warmup", "inverse_sqrt", "polynomial"])
def test_other_schedules_are_fitted_too(kind: str, tiny: Callable[..., Any]) -> None:
    run = tiny(max_steps=40, lr_scheduler_type=kind, warmup_steps=3)
    log = run.train(budget=Budget(300, reserve=100, started=0, clock=Clock(run)), checkpoints=None)
    assert 15 <= len(rates(log)) <= 20


def test_two_real_seconds_are_kept(tiny: Callable[..., Any]) -> None:
    run = tiny(max_steps=10_000, logging_steps=1000)
    rows = [{"input_ids": [0, 1, 2], "position_ids": [0, 1, 2], "labels": [0, 1, 2]}] * 20_000
    budget = Budget(1e9, reserve=1.0, started=time.monotonic())
    seen: list[float] = []

    def on_step(step: int) -> None:
        if step == 1:  # building the rows does not count here
            budget._deadline = time.monotonic() + 2.0
        seen.append(time.monotonic())

    run.on_step = on_step
    run.train(budget=budget, rows=rows, saving=Saving(minutes=None), checkpoints=None)
    assert 20 < len(run.steps) < 10_000
    assert 1.0 < seen[-1] - seen[0] < 2.5

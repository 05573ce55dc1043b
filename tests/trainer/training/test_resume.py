"""A run that was stopped and goes on is the run that was never stopped, bit for bit."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_trainer.errors import Interrupted
from rhapsode_trainer.training.saving import Saving
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import get_last_checkpoint


def kill_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def without_times(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [entry for entry in log if "train_runtime" not in entry]


@pytest.mark.parametrize("optimizer", ["trainer", "muon"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_any_number_of_stops_leaves_the_same_weights_and_the_same_log(
    optimizer: str, accumulation: int, tiny: Callable[..., Any]
) -> None:
    changes = {"gradient_accumulation_steps": accumulation, "logging_steps": 3, "warmup_steps": 2}
    straight, stopped = tiny(**changes), tiny(**changes)
    straight.optimizer = stopped.optimizer = optimizer
    log = straight.train(checkpoints=None)
    for step in (1, 4, 6):
        stopped.on_step = kill_at(step)
        with pytest.raises(Interrupted, match=r"The next run starts from the checkpoint of step \d\."):
            stopped.train()
    resumed = stopped.train()
    assert torch.equal(stopped.weights(), straight.weights())
    assert without_times(resumed) == without_times(log)
    assert 1 <= len(stopped.steps) <= 2
    assert any(module.p > 0 for module in stopped.model.modules() if isinstance(module, torch.nn.Dropout))


@pytest.mark.parametrize("stop", [1, 7])
def test_going_on_near_either_end_gives_the_same_weights(stop: int, tiny: Callable[..., Any]) -> None:
    straight, stopped = tiny(), tiny()
    straight.train()
    stopped.on_step = kill_at(stop)
    with pytest.raises(Interrupted):
        stopped.train()
    stopped.train()
    assert torch.equal(stopped.weights(), straight.weights())


def test_a_finished_training_is_loaded_and_not_repeated(tiny: Callable[..., Any]) -> None:
    run = tiny()
    log, weights = run.train(), None
    weights = run.weights()
    assert without_times(run.train()) == without_times(log)
    assert run.steps == []
    assert torch.equal(run.weights(), weights)
    assert run.model.config.use_cache is True


def test_checkpoints_hold_no_pickle_that_is_not_weights_only_and_the_newest_two_stay(tiny: Callable[..., Any]) -> None:
    run = tiny()
    run.train(saving=Saving(steps=3))
    assert run.saved() == [6, 8]
    names = {path.name for path in (run.checkpoints.path / "checkpoint-8").iterdir()}
    assert "training_args.bin" not in names
    assert {"model.safetensors", "trainer_state.json", "loop.json", "MANIFEST.json"} <= names
    for name in (name for name in names if name.endswith((".pt", ".pth"))):
        with safe_globals():
            torch.load(run.checkpoints.path / "checkpoint-8" / name, weights_only=True)


def test_a_clock_saves_too(tiny: Callable[..., Any]) -> None:
    run = tiny()
    run.checkpoints = dataclasses.replace(run.checkpoints, keep=9)
    run.train(saving=Saving(minutes=1, clock=lambda: 25.0 * len(run.steps)))
    assert run.saved() == [4, 8], "25 seconds pass between two steps: a minute is over at the end of the fourth"


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tiny: Callable[..., Any]) -> None:
    straight, run = tiny(), tiny()
    straight.train()
    run.on_step = kill_at(6)
    with pytest.raises(Interrupted):
        run.train(saving=Saving(steps=3))
    assert run.saved() == [6, 7]
    optimizer = run.checkpoints.path / "checkpoint-7/optimizer.pt"
    os.truncate(optimizer, optimizer.stat().st_size // 2)
    run.on_step = lambda step: None
    run.train()
    assert run.steps == [7, 8]
    assert torch.equal(run.weights(), straight.weights())
    assert run.warnings == [f"{optimizer.parent} is passed over: optimizer.pt is not what was written"]


def test_where_stock_trainer_takes_the_broken_checkpoint_ours_takes_the_one_before(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = tiny()
    run.train()
    broken = run.checkpoints.path / "checkpoint-99"
    broken.mkdir()
    (broken / "checkpoint-is-incomplete.txt").touch()
    assert get_last_checkpoint(str(run.checkpoints.path)) == str(broken)
    stock = Trainer(
        model=run.make_model("gpt2"),
        args=TrainingArguments(output_dir=str(run.checkpoints.path), use_cpu=True, disable_tqdm=True, max_steps=8),
        train_dataset=[{"input_ids": [1, 2], "labels": [1, 2]}],
        data_collator=default_data_collator,
    )
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        stock.train(resume_from_checkpoint=True)
    assert run.checkpoints.newest() is None, "the key of the run also holds the rows of a step"
    run.train()
    assert run.steps == []
    assert "checkpoint-99" in run.warnings[-1]


class _Kill(TrainerCallback):
    """SIGTERM in the third step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_where_stock_trainer_returns_after_a_signal_as_if_it_were_done_ours_does_not(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = tiny()
    before = signal.getsignal(signal.SIGTERM)
    arguments = {"enable_jit_checkpoint": True, "save_strategy": "epoch", "disable_tqdm": True, "use_cpu": True}
    stock = Trainer(
        model=run.make_model("gpt2"),
        args=TrainingArguments(output_dir=str(tmp_path / "stock"), num_train_epochs=8, **arguments),
        train_dataset=[{"input_ids": [1, 2], "labels": [1, 2]}] * 16,
        data_collator=default_data_collator,
        callbacks=[_Kill()],
    )
    for callback in stock.callback_handler.callbacks:
        if isinstance(callback, JITCheckpointCallback):
            callback.jit_manager.kill_wait = 0  # instead of three seconds
    try:
        result = stock.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.global_step < stock.state.max_steps == 16, "half trained, and nobody is told"

    run.on_step = kill_at(3)
    with pytest.raises(Interrupted, match="SIGTERM: nothing was published"):
        run.train()
    newest = json.loads((run.checkpoints.path / f"checkpoint-{run.saved()[-1]}" / "trainer_state.json").read_text())
    assert newest["global_step"] in (3, 4)


def test_no_evaluation_after_a_signal_and_none_is_lost(tiny: Callable[..., Any]) -> None:
    run, straight, evaluated = tiny(), tiny(), []

    def evaluate(epoch: int) -> dict[str, float]:
        torch.rand(3)  # must not disturb training
        evaluated.append(epoch)
        return {"validation_loss": float(epoch)}

    straight.train()
    run.on_step = kill_at(4)
    with pytest.raises(Interrupted):
        run.train(epoch_ends=(4, 8), on_epoch_end=evaluate)
    assert evaluated == [] or run.saved() == [5]
    run.on_step = lambda step: None
    log = run.train(epoch_ends=(4, 8), on_epoch_end=evaluate)
    assert evaluated == [1, 2]
    entries = [(entry["step"], entry["epoch_end"], entry["validation_loss"]) for entry in log if "epoch_end" in entry]
    assert entries == [(4, 1.0, 1.0), (8, 2.0, 2.0)]
    assert torch.equal(run.weights(), straight.weights())


def test_a_signal_during_an_evaluation_leaves_it_to_the_next_attempt(tiny: Callable[..., Any]) -> None:
    run, calls = tiny(), []

    def evaluate(epoch: int) -> dict[str, float]:
        calls.append(epoch)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            raise Interrupted("as the check in an evaluation does")
        return {"validation_loss": 1.0}

    with pytest.raises(Interrupted):
        run.train(epoch_ends=(4,), on_epoch_end=evaluate)
    assert run.saved() == [4]
    run.train(epoch_ends=(4,), on_epoch_end=evaluate)
    assert calls == [1, 1]
    assert run.steps[0] == 5


def test_a_second_signal_while_saving_harms_nothing(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run, straight = tiny(), tiny()
    straight.train()
    seal = type(run.checkpoints)._seal

    def sealing(self: Any, staging: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        seal(self, staging)

    monkeypatch.setattr(type(run.checkpoints), "_seal", sealing)
    run.on_step = kill_at(3)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run.train()
    monkeypatch.setattr(type(run.checkpoints), "_seal", seal)
    run.on_step = lambda step: None
    run.train()
    assert run.steps[0] in (4, 5)
    assert torch.equal(run.weights(), straight.weights())


def test_checkpoints_of_another_run_are_passed_over_and_then_removed(tiny: Callable[..., Any]) -> None:
    run = tiny()
    run.train()
    other = tiny()
    shutil.copytree(run.checkpoints.path, other.checkpoints.path)
    other.checkpoints = dataclasses.replace(other.checkpoints, key="other")
    other.train(saving=Saving(steps=5))
    assert other.steps[0] == 1
    assert "another recipe" in other.warnings[0]
    assert other.saved() == [5, 8]


def test_another_number_of_rows_a_step_is_another_run(tiny: Callable[..., Any]) -> None:
    first, second = tiny(), tiny(per_device_train_batch_size=4)
    first.train()
    second.checkpoints = first.checkpoints
    second.train()
    assert second.steps[0] == 1

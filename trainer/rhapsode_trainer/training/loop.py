"""A `transformers.Trainer` that can be stopped at every step, goes on bit for bit, and ends in time."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ..budget import Budget, Schedule
from ..checkpoints import Checkpoints
from ..errors import Interrupted
from ..interruption import Interruption
from .processes import Processes
from .progress import Reporter
from .saving import Saving
from .speed import Speed

_LOOP_STATE = "loop.json"
_PICKLES_NOBODY_READS = ("training_args.bin",)

EpochEnd = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What happens around the steps. `epoch_ends` are the steps after which `on_epoch_end` is called, with the model as
    `measuring` makes it."""

    report: Reporter = lambda done, total, loss: None
    interruption: Interruption = field(default_factory=Interruption)
    checkpoints: Checkpoints | None = None
    saving: Saving = field(default_factory=Saving)
    budget: Budget | None = None
    epoch_ends: Sequence[int] = ()
    on_epoch_end: EpochEnd | None = None
    measuring: Callable[[], AbstractContextManager[None]] = nullcontext
    speed: Speed = field(default_factory=Speed)


class Loop(Trainer):
    """Trainer decides when something is due (its callbacks), logs, then evaluates, then saves; both are ours."""

    def __init__(self, hooks: Hooks, **options: Any) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self.hooks = hooks
        self.processes = Processes()
        self.schedule = Schedule.full(self.args.max_steps)
        self._saved_step: int | None = None
        self._evaluated: set[int] = set()
        self._unlogged: tuple[float, int] | None = None
        self.add_callback(_Decisions(self))

    def run(self) -> None:
        """Trains from the newest checkpoint, or from the beginning, to the end of the schedule."""
        start = self.processes.from_main(self._newest_checkpoint())
        if start is not None:
            self._resume(Path(start))
        if start is not None and self.state.global_step >= self.schedule.end:
            self._load_from_checkpoint(start)
            self.evaluate_epoch()
        else:
            self.train(resume_from_checkpoint=start)

    def _newest_checkpoint(self) -> str | None:
        if self.hooks.checkpoints is None or not self.processes.main:
            return None
        newest = self.hooks.checkpoints.newest()
        return None if newest is None else str(newest)

    def _resume(self, path: Path) -> None:
        """What Trainer does not restore by itself."""
        self.state = TrainerState.load_from_json(str(path / "trainer_state.json"))
        state = json.loads((path / _LOOP_STATE).read_bytes())
        self.schedule = Schedule(tuple((step, position) for step, position in state["schedule"]))
        self._evaluated = {int(entry["step"]) for entry in self.state.log_history if "epoch_end" in entry}
        self._saved_step = self.hooks.interruption.resumes_at = self.state.global_step
        self._unlogged = (state["unlogged_loss"], state["logged_step"])

    def restore_unlogged(self) -> None:
        """The losses since the last entry of the log: without them the next entry would be that of another run."""
        if self._unlogged is not None:
            self._tr_loss = torch.tensor(self._unlogged[0], device=self.args.device)
            self._globalstep_last_logged = self._unlogged[1]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Trainer's scheduler, asked for the position of a step instead of the step."""
        created = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        assert isinstance(scheduler, LambdaLR), "the others need Trainer's own evaluation, which is off"
        if created:
            scheduler.lr_lambdas = [self._by_position(rate) for rate in scheduler.lr_lambdas]
        return scheduler

    def _by_position(self, rate: Callable[[Any], float]) -> Callable[[int], float]:
        return lambda step: rate(self.schedule.position(step))

    def evaluation_due(self) -> bool:
        step = self.state.global_step
        return self.hooks.on_epoch_end is not None and step in self.hooks.epoch_ends and step not in self._evaluated

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        self.evaluate_epoch()
        return {}

    def evaluate_epoch(self) -> None:
        """Calls `on_epoch_end` if that is due, and logs what it returns. A signal leaves it to the next attempt."""
        if not self.evaluation_due():
            return
        epoch = sum(step <= self.state.global_step for step in self.hooks.epoch_ends)
        with self.hooks.speed.paused():
            metrics = self.processes.from_main(self._epoch_metrics(epoch) if self.processes.main else None)
        if metrics is None:
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = True
            return
        self._evaluated.add(self.state.global_step)
        self.log({"epoch_end": float(epoch), **metrics})
        if self.hooks.budget is not None:
            self.hooks.budget.pause_done()

    def _epoch_metrics(self, epoch: int) -> dict[str, float] | None:
        assert self.hooks.on_epoch_end is not None
        try:
            with _kept_random_state(), self.hooks.measuring():
                return dict(self.hooks.on_epoch_end(epoch))
        except Interrupted:
            return None

    def _get_output_dir(self, trial: Any) -> str:
        checkpoints, step = self.hooks.checkpoints, self.state.global_step
        return str(self.args.output_dir if checkpoints is None else checkpoints.staging(step).parent)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's own checkpoint, written into a staging folder and sealed by `Checkpoints`."""
        checkpoints, step = self.hooks.checkpoints, self.state.global_step
        if checkpoints is None or self._saved_step == step:
            return

        def write(folder: Path) -> None:
            self.processes.wait()
            super(Loop, self)._save_checkpoint(model, trial)
            unlogged = self.accelerator.gather(self._tr_loss.reshape(1)).mean().item()
            self.processes.wait()
            if self.processes.main:
                self._write_loop_state(folder, unlogged)

        with self.hooks.speed.paused():
            if self.processes.main:
                checkpoints.save(step, write)
            else:
                write(checkpoints.staging(step))
        self._saved_step = self.hooks.interruption.resumes_at = step
        self.hooks.saving.saved()

    def _write_loop_state(self, folder: Path, unlogged: float) -> None:
        for name in _PICKLES_NOBODY_READS:
            (folder / name).unlink(missing_ok=True)
        state = {
            "schedule": self.schedule.knots,
            "unlogged_loss": unlogged,
            "logged_step": self._globalstep_last_logged,
        }
        (folder / _LOOP_STATE).write_text(json.dumps(state), encoding="utf-8")


class _Decisions(TrainerCallback):
    """After each step: report, then decide in all processes alike whether to evaluate, to save, to stop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        loop = self._loop
        loop.restore_unlogged()
        loop.hooks.saving.begin()
        if loop.hooks.budget is not None:
            loop.hooks.budget.begin()
        loop.evaluate_epoch()
        loop.hooks.speed.start()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self._loop.hooks.speed.stop()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        loop, hooks = self._loop, self._loop.hooks
        step = state.global_step
        signal, save, negative_end = loop.processes.largest(
            hooks.interruption.signal or 0, hooks.saving.due(step) if loop.processes.main else 0, -self._end(step)
        )
        if signal:
            hooks.interruption.note(signal)
        if -negative_end < loop.schedule.end:
            loop.schedule = loop.schedule.ending_at(-negative_end, now=step)
        finished = step >= loop.schedule.end
        control.should_training_stop = bool(signal) or finished
        control.should_save = bool(save or signal) or finished
        control.should_evaluate = loop.evaluation_due() and not signal
        control.should_log = control.should_log or finished
        hooks.speed.step_done()
        self._report(state)

    def _end(self, step: int) -> int:
        """The step to end at, as the main process sees it."""
        budget, end = self._loop.hooks.budget, self._loop.schedule.end
        if budget is None or not self._loop.processes.main:
            return end
        if torch.cuda.is_available() and budget.measuring:
            torch.cuda.synchronize()  # else the time would be that of launching the step
        budget.step_done()
        return budget.end(step, end, self._loop.hooks.epoch_ends)

    def _report(self, state: TrainerState) -> None:
        losses = [entry["loss"] for entry in state.log_history[-2:] if "loss" in entry]
        self._loop.hooks.report(state.global_step, self._loop.schedule.end, losses[-1] if losses else None)


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """What happens in between draws no numbers from the generators of training."""
    python, legacy = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(legacy)

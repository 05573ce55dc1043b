import io
import json
from pathlib import Path

import pytest
from rhapsode_trainer.status import Status
from rhapsode_trainer.training.progress import Rate, report_progress
from rhapsode_trainer.training.saving import Saving
from rich.console import Console


def test_steps_of_an_earlier_attempt_do_not_count() -> None:
    now = [100.0]
    rate = Rate(clock=lambda: now[0])
    for done in (501, 502, 503, 504):
        now[0] += 2.0
        rate.update(done)
    assert rate.steps_per_second == 0.5


@pytest.mark.parametrize("terminal", [False, True])
def test_console_and_status_are_told(terminal: bool, tmp_path: Path) -> None:
    out, path = io.StringIO(), tmp_path / "status.json"
    console = Console(file=out, force_terminal=terminal, width=120)
    status = Status(path, key="abc")
    with report_progress(console, steps=20, tokens_per_step=64, status=status) as report:
        for done in range(1, 11):
            report(done, 10, 3.25)
    told = json.loads(path.read_text())
    assert (told["step"], told["total"], told["loss"], told["eta_seconds"]) == (10, 10, 3.25, 0.0)
    assert told["tokens_per_second"] > 0
    assert "loss 3.250" in out.getvalue()
    assert ("\x1b" in out.getvalue()) == terminal
    if not terminal:
        assert "train 10/10 (100%)" in out.getvalue()


def test_a_checkpoint_is_due_by_steps_or_by_the_clock() -> None:
    now = [0.0]
    saving = Saving(steps=10, minutes=1, clock=lambda: now[0])
    saving.begin()
    assert [step for step in range(1, 31) if saving.due(step)] == [10, 20, 30]
    now[0] = 60.0
    assert saving.due(31)
    saving.saved()
    assert not saving.due(31)


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("minutes", 0.0), ("minutes", float("nan"))])
def test_impossible_intervals_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Saving(**{field: value})

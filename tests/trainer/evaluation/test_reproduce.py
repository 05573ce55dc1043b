import json
import math
from pathlib import Path

import pytest
from rhapsode_trainer.commands.reproduce import compare_curves, recorded_run, render_curves
from rhapsode_trainer.errors import SourceError

LOG = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 20, "validation_loss": 2.5}, {"runtime": 1}]


def shifted(by: float) -> list[dict[str, float]]:
    return [{**entry, "loss": entry["loss"] + by} if "loss" in entry else entry for entry in LOG]


def test_a_run_that_repeats_itself_has_the_same_curve() -> None:
    comparison = compare_curves(LOG, LOG, tolerance=0.0)
    assert (comparison.same, comparison.steps, comparison.largest) == (True, 2, 0.0)
    assert str(render_curves(comparison)) == "same loss curve: 2 steps, largest difference 0"


@pytest.mark.parametrize(("tolerance", "same"), [(0.0, False), (0.1, False), (0.3, True)])
def test_a_difference_counts_by_its_size(tolerance: float, same: bool) -> None:
    comparison = compare_curves(LOG, [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.25}], tolerance=tolerance)
    assert (comparison.same, comparison.largest, comparison.step) == (same, 0.25, 20)
    assert same or "0.25 nats per token apart at step 20" in str(render_curves(comparison))


def test_steps_of_one_alone_are_another_curve() -> None:
    comparison = compare_curves(LOG, [*LOG, *({"step": step, "loss": 1.0} for step in range(30, 100, 10))], tolerance=9)
    assert not comparison.same
    assert "steps 30, 40, 50, 60, 70 and 2 more" in str(render_curves(comparison))
    assert not compare_curves([], [], tolerance=9).same, "nothing proves nothing"


def test_what_is_not_finite_equals_only_its_like() -> None:
    broken = [{"step": 10, "loss": None}, {"step": 20, "loss": 2.0}]
    assert compare_curves(broken, broken, tolerance=0).same
    assert compare_curves(broken, shifted(0.0), tolerance=1e9).largest == math.inf


def test_a_version_tells_how_it_was_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not trained here"):
        recorded_run(tmp_path)
    lineage = {"recipe": "poetry", "config": {"seed": 1}, "data": {"sha256": "abc"}}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    with pytest.raises(SourceError, match=r"training_log\.jsonl"):
        recorded_run(tmp_path)
    (tmp_path / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    run = recorded_run(tmp_path)
    assert (run.recipe, run.config, run.log) == ("poetry", {"seed": 1}, LOG)

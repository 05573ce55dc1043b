import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rhapsode_trainer.errors import ConfigError, GateRejected, Interrupted
from rhapsode_trainer.sweep import Choices, Range, Report, Tried, parse_space, sweep

RATE, BATCH, WARMUP, EPOCHS = (
    f"training.arguments.{name}"
    for name in ("learning_rate", "per_device_train_batch_size", "warmup_steps", "num_train_epochs")
)
SPACE = parse_space(
    {
        RATE: {"low": 1.0e-5, "high": 1.0e-2, "log": True},
        BATCH: {"choices": [4, 8, 16]},
        WARMUP: {"low": 0.0, "high": 0.2},
        EPOCHS: {"low": 1, "high": 4},
    }
)


def loss(overrides: Mapping[str, Any]) -> float:
    """Lowest at a rate of 1e-3, a batch of 8 and four epochs."""
    return abs(math.log10(overrides[RATE]) + 3) + abs(overrides[BATCH] - 8) / 8 + 0.1 * (4 - overrides[EPOCHS])


def train(overrides: Mapping[str, Any], report: Report) -> float:
    for step in range(1, overrides[EPOCHS] + 1):
        report(step, loss(overrides) + 1 / step)
    return loss(overrides)


@pytest.fixture(autouse=True)
def _quick_disk() -> Iterator[None]:
    """A database that does not wait for the disk: what a killed process wrote is there all the same."""
    from sqlalchemy import Engine, event

    def quick(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", quick)
    yield
    event.remove(Engine, "connect", quick)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "a b?c#d%20"
    folder.mkdir()
    return folder / "sweep.sqlite"


def run(storage: Path, trials: int, **options: Any) -> tuple[dict[str, Any], list[Tried]]:
    tried: list[Tried] = []
    best = sweep(
        options.pop("objective", train), SPACE, trials=trials, storage=storage, on_trial=tried.append, **options
    )
    return best, tried


def test_the_best_overrides_are_found_within_the_space(storage: Path) -> None:
    best, tried = run(storage, 16)
    assert [trial.number for trial in tried] == list(range(1, 17))
    values = [trial.value for trial in tried if trial.value is not None]
    assert loss(best) == min(values) < 0.5
    assert any(trial.value is None for trial in tried), "nothing was pruned"
    for trial in tried:
        assert 1e-5 <= trial.overrides[RATE] <= 1e-2
        assert trial.overrides[BATCH] in (4, 8, 16)
        assert 0 <= trial.overrides[WARMUP] <= 0.2
        assert trial.overrides[EPOCHS] in (1, 2, 3, 4)


def test_the_seed_decides_what_is_tried(tmp_path: Path) -> None:
    first, again, other = (run(tmp_path / str(index), 3, seed=seed)[1] for index, seed in enumerate((1, 1, 2)))
    assert first == again
    assert [trial.overrides for trial in first] != [trial.overrides for trial in other]


def test_a_search_in_pieces_is_the_search_without_a_break(tmp_path: Path) -> None:
    best, whole = run(tmp_path / "whole", 12)
    pieces: list[Tried] = []
    for trials in (3, 11, 12):
        found, tried = run(tmp_path / "pieces", trials)
        pieces += tried
    assert (found, pieces) == (best, whole)
    assert run(tmp_path / "pieces", 12) == (best, [])


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_a_stopped_search_tries_the_same_trial_again(tmp_path: Path, how: str) -> None:
    best, whole = run(tmp_path / "whole", 8)
    calls = iter(range(100))

    def stop(overrides: Mapping[str, Any], report: Report) -> float:
        if next(calls) < 5:
            return train(overrides, report)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Interrupted("stopped")

    if how == "killed":
        child = os.fork()
        if child == 0:
            try:
                run(tmp_path / "stopped", 8, objective=stop)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    else:
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", 8, objective=stop)
    again, rest = run(tmp_path / "stopped", 8)
    assert rest == whole[5:]
    assert again == best


def test_a_trial_that_diverges_does_not_end_the_search(storage: Path) -> None:
    def diverge(overrides: Mapping[str, Any], report: Report) -> float:
        if overrides[BATCH] == 4:
            return math.nan
        if overrides[BATCH] == 16:
            raise GateRejected("diverged")
        return train(overrides, report)

    best, tried = run(storage, 8, objective=diverge)
    assert best[BATCH] == 8
    assert {trial.overrides[BATCH] for trial in tried if trial.value is not None} == {8}
    assert len(tried) == 8


def test_a_search_that_reaches_no_value_is_rejected(storage: Path) -> None:
    with pytest.raises(GateRejected, match="none of 2 trials reached a value"):
        run(storage, 2, objective=lambda overrides, report: math.inf)


def test_another_space_needs_another_file(storage: Path) -> None:
    run(storage, 1)
    with pytest.raises(ConfigError, match=r"sweep\.sqlite: a search over another space"):
        sweep(train, {RATE: Choices(choices=(1,))}, trials=2, storage=storage)


def test_a_file_that_is_no_study_is_named(storage: Path, tmp_path: Path) -> None:
    storage.write_bytes(b"not a database" * 100)
    for path in (storage, tmp_path / "absent" / "x.sqlite"):
        with pytest.raises(ConfigError, match=f"{path.name}: cannot be used for the search"):
            run(path, 1)


def test_a_search_of_no_trials_is_refused(storage: Path) -> None:
    with pytest.raises(ConfigError, match="--trials: 0"):
        run(storage, 0)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "is not a mapping of fields"),
        ([1], "is not a mapping of fields"),
        ({"a.b": 3}, r"a\.b: 3 is neither"),
        ({"a.b": {"low": 1}}, r"a\.b: .* is neither"),
        ({"a.b": {"low": 1, "high": 2, "step": 1}}, r"a\.b: .* is neither"),
        ({"a.b": {"low": "1e-5", "high": 1}}, r"a\.b\.low: '1e-5' is not a number"),
        ({"a.b": {"low": 1, "high": True}}, r"a\.b\.high: True is not a number"),
        ({"a.b": {"low": 3, "high": 2}}, r"a\.b\.low: 3 is more than high, 2"),
        ({"a.b": {"low": 0, "high": 2, "log": True}}, r"a\.b\.log: True"),
        ({"a.b": {"choices": []}}, r"a\.b\.choices: \[\]"),
        ({"a.b": {"choices": [[1]]}}, r"a\.b\.choices: \[\[1\]\]"),
    ],
)
def test_a_bad_space_is_refused_by_field(document: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_space(document)


def test_integers_stay_integers() -> None:
    assert parse_space({"a": {"low": 1, "high": 2}}) == {"a": Range(low=1, high=2)}


def test_a_missing_library_is_named(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'rhapsode-trainer\[sweep\]'"):
        run(storage, 1)

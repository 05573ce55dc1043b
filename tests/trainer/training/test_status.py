import io
import json
import os
from pathlib import Path

import pytest
from rhapsode_trainer.status import Status


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_file_tells_how_the_run_is_getting_on(tmp_path: Path) -> None:
    path, clock = tmp_path / "status.json", Clock()
    status = Status(path, key="abc", clock=clock)
    status.phase("train")
    clock.now += 5
    status.step(3, 10, 4.5, eta_seconds=7.0, tokens_per_second=1024.0)
    assert json.loads(path.read_text()) == {
        "key": "abc",
        "phase": "train",
        "attempt": 1,
        "pid": os.getpid(),
        "updated": 1005.0,
        "step": 3,
        "total": 10,
        "eta_seconds": 7.0,
        "tokens_per_second": 1024.0,
        "loss": 4.5,
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_steps_are_told_once_a_second_and_the_last_one_always(tmp_path: Path) -> None:
    stream, clock = io.StringIO(), Clock()
    status = Status(None, key="abc", stream=stream, clock=clock)
    status.phase("train")
    for done in range(1, 101):
        clock.now += 0.1
        status.step(done, 100, 1.0, eta_seconds=0.0, tokens_per_second=1.0)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["phase"] for line in told[:2]] == ["start", "train"]
    assert 9 <= len(told) - 2 <= 12
    assert told[-1]["step"] == 100
    assert told[-1]["time"] == "1970-01-01T00:16:50.000+00:00"
    assert "updated" not in told[-1]


@pytest.mark.parametrize(("phase", "key", "attempt"), [("train", "abc", 2), ("published", "abc", 1), ("train", "x", 1)])
def test_attempts_at_one_run_are_counted(phase: str, key: str, attempt: int, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    Status(path, key="abc").phase(phase)
    assert Status(path, key=key).snapshot.attempt == attempt


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": "abc", "phase": "train", "attempt": null}', "\xff"])
def test_an_earlier_status_that_cannot_be_read_counts_for_nothing(content: str, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text(content, encoding="latin-1")
    assert Status(path, key="abc").snapshot.attempt == 1


def test_a_loss_that_is_not_finite_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    status = Status(path, key="abc")
    status.step(1, 1, float("nan"), eta_seconds=None, tokens_per_second=None)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["loss"] is None


def test_prometheus_can_read_the_textfile(tmp_path: Path) -> None:
    path, clock = tmp_path / "train.prom", Clock()
    status = Status(None, key="abc", textfile=path, clock=clock)
    clock.now += 5
    status.step(3, 10, 4.5, eta_seconds=7.0, tokens_per_second=1024.0)
    lines = path.read_text().splitlines()
    assert 'rhapsode_train_phase{phase="start"} 1' in lines
    assert "rhapsode_train_step 3" in lines
    assert "rhapsode_train_loss 4.5" in lines
    assert "rhapsode_train_updated_timestamp_seconds 1005.0" in lines
    names = [line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")]
    assert [line.split(" ")[2] for line in lines if line.startswith("# TYPE")] == names


def test_a_folder_that_refuses_does_not_end_the_run(tmp_path: Path) -> None:
    status = Status(tmp_path / "missing/status.json", key="abc", textfile=tmp_path / "missing/train.prom")
    status.phase("train")
    assert status.snapshot.phase == "train"

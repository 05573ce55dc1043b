"""What Kubernetes is told of a run that fails."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import ModelDirectoryError
from rhapsode_trainer import __main__ as entry
from rhapsode_trainer.errors import GateRejected
from rhapsode_trainer.termination import note_termination


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As Kubernetes makes it."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setenv("RHAPSODE_TERMINATION_LOG", str(path))
    return path


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def app() -> None:
        raise error

    monkeypatch.setattr(entry, "app", app)


def test_a_wrong_setting_is_noted(cli: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    outcome = cli("publish", tmp_path / "none", "--name", "poems")
    assert outcome.code == 2
    assert file.read_text() == f"rhapsode-train: {tmp_path / 'none'}: no such folder" == outcome.err.strip()


@pytest.mark.parametrize(("error", "code"), [(GateRejected("worse than 3"), 4), (ModelDirectoryError("gone"), 1)])
def test_the_reason_of_every_exit_code_is_noted(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == code
    assert file.read_text() == f"rhapsode-train: {error}"


def test_a_bug_is_noted_and_keeps_its_traceback(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError):
        entry.main()
    assert file.read_text() == "rhapsode-train failed: ZeroDivisionError: division by zero"


def test_it_is_short_and_can_be_printed(file: Path) -> None:
    note_termination("\x1b[2Ja\udcff\n" + "\u8a69" * 5000)
    lines = file.read_text().split("\n")
    assert lines[0] == "\ufffd[2Ja\ufffd"
    assert set(lines[1]) == {"\u8a69"}
    assert file.stat().st_size <= 4096


def test_it_is_written_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, missing = tmp_path / "pipe", tmp_path / "missing"
    os.mkfifo(pipe)
    for path in (pipe, missing, tmp_path):
        monkeypatch.setenv("RHAPSODE_TERMINATION_LOG", str(path))
        note_termination("why")
    assert not missing.exists()

"""Verdicts on versions, read back by the trainer's own reader."""

import errno
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from rhapsode_contract.model_directory import files
from rhapsode_server.models.feedback import Feedback
from rhapsode_trainer.evaluation.opponent import refusal


@pytest.mark.parametrize("verdict", ["quarantined", "rolled_back"])
def test_the_trainer_reads_a_refusal(tmp_path: Path, verdict) -> None:
    feedback = Feedback(tmp_path, "node-7-50051")
    feedback.write("poems", 13, "serving", "")
    feedback.write("poems", 13, verdict, "latency: 4.0 times")
    assert refusal(tmp_path, "poems", 13) == f"{verdict} by node-7-50051: latency: 4.0 times"
    assert refusal(tmp_path, "poems", 1) is None


def test_the_trainer_reads_that_a_version_serves_after_all(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path, "node-7")
    feedback.write("poems", 13, "quarantined", "out_of_memory: it needs 9 GiB")
    feedback.write("poems", 13, "serving", "")
    assert refusal(tmp_path, "poems", 13) is None


def test_servers_do_not_overwrite_each_other(tmp_path: Path) -> None:
    Feedback(tmp_path, "node.one-1").write("poems", 13, "quarantined", "canary_off: by a mile")
    Feedback(tmp_path, "node.two-2").write("poems", 13, "serving", "")
    assert sorted(path.name for path in (tmp_path / "poems").iterdir()) == [
        "13.node.one-1.json",
        "13.node.two-2.json",
    ]
    assert refusal(tmp_path, "poems", 13) == "quarantined by node.one-1: canary_off: by a mile"


def test_the_file(tmp_path: Path) -> None:
    Feedback(tmp_path / "made" / "here", "node-7").write("poems", 13, "rolled_back", "a\n\u00e9")
    document = json.loads((tmp_path / "made" / "here" / "poems" / "13.node-7.json").read_bytes())
    written_at = datetime.fromisoformat(document.pop("time"))
    assert datetime.now(UTC) - written_at < timedelta(minutes=1)
    assert document == {"schema_version": 1, "verdict": "rolled_back", "reason": "a\n\u00e9", "server": "node-7"}


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Feedback(None, "node-7").write("poems", 13, "serving", "")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feedback = Feedback(tmp_path, "node-7")
    feedback.write("poems", 13, "quarantined", "as it was")

    def full(descriptor: int, data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "write", full)
        feedback.write("poems", 13, "serving", "")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "poems version 13: the verdict 'serving' could not be written" in record.getMessage()
    assert "No space left" in record.getMessage()
    assert refusal(tmp_path, "poems", 13) == "quarantined by node-7: as it was"
    feedback.write("poems", 13, "serving", "")
    assert refusal(tmp_path, "poems", 13) is None


def test_a_directory_that_cannot_be_made_is_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    Feedback(tmp_path / "file", "node-7").write("poems", 13, "serving", "")
    assert len(caplog.records) == 1

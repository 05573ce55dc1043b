"""A publisher is stopped past its lease, others publish meanwhile or cannot, and it wakes up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rhapsode_contract.model_directory import Lease, LeaseHeld, ModelFolder, lease, publish, verify_version

LEASE_LOST = 3
SLEEP_SECONDS = 3600.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """The model; this process lives in the hour to which the stopped publisher will wake up."""
    monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: time.time() + SLEEP_SECONDS))
    return ModelFolder(tmp_path / "poems")


@pytest.fixture
def stopped_at(folder: ModelFolder) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a publisher and returns when it has stopped itself at a place."""
    started: list[subprocess.Popen[str]] = []

    def stopped_at(place: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("publisher.py")), str(folder.path), "0", "4000", place]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state is not None
        assert state.si_code == os.CLD_STOPPED, process.communicate()
        return process

    yield stopped_at
    for process in started:
        process.kill()
        process.communicate()


def wake(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Lets a stopped publisher run to its end: exit code, phases, standard error."""
    process.send_signal(signal.SIGCONT)
    phases, error = process.communicate(timeout=60)
    return process.returncode, phases, error


def publish_here(folder: ModelFolder) -> int:
    def write(staging: Path) -> None:
        (staging / "config.json").write_text('{"by": "the other publisher"}')

    with Lease.acquire(folder, owner="the other publisher") as held:
        return publish(folder, held, write=write, dtype="float32", parameter_count=1, actor="other", reason="test")


def test_stopped_before_the_rename_while_another_publishes(
    folder: ModelFolder, stopped_at: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = stopped_at("filled")
    assert publish_here(folder) == 1
    code, phases, error = wake(process)
    assert code == LEASE_LOST
    assert phases == "(w"
    assert "the lease of poems was" in error
    assert folder.versions() == [1]
    assert verify_version(folder.version_path(1)).files.keys() == {"config.json"}
    assert folder.aliases() == {"champion": 1}
    assert [move["actor"] for move in folder.history()] == ["other"]
    assert publish_here(folder) == 2


def test_stopped_before_the_alias_moves_while_another_publishes(
    folder: ModelFolder, stopped_at: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = stopped_at("load")
    assert publish_here(folder) == 2
    code, phases, _ = wake(process)
    assert (code, phases) == (LEASE_LOST, "(wl")
    assert folder.versions() == [1, 2]
    assert folder.aliases() == {"champion": 2}
    assert [move["actor"] for move in folder.history()] == ["other"]


def test_overslept_although_nobody_took_over(
    folder: ModelFolder, stopped_at: Callable[[str], subprocess.Popen[str]]
) -> None:
    code, phases, error = wake(stopped_at("filled"))
    assert (code, phases) == (LEASE_LOST, "(w")
    assert "ran out" in error
    assert folder.versions() == []


def test_nobody_takes_over_between_check_and_rename(
    folder: ModelFolder, stopped_at: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOCK_WAIT_SECONDS", 0.05)
    process = stopped_at("rename")
    with pytest.raises(LeaseHeld, match="in the middle of a step"):
        publish_here(folder)
    assert folder.versions() == []
    code, phases, _ = wake(process)
    assert (code, phases) == (LEASE_LOST, "(wl")
    assert folder.versions() == [1]
    assert folder.aliases() == {}
    assert publish_here(folder) == 2


def test_nobody_takes_over_while_the_alias_moves(
    folder: ModelFolder, stopped_at: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOCK_WAIT_SECONDS", 0.05)
    process = stopped_at("replace")
    with pytest.raises(LeaseHeld, match="in the middle of a step"):
        publish_here(folder)
    code, phases, _ = wake(process)
    assert (code, phases) == (0, "(wl)")
    assert folder.aliases() == {"champion": 1}
    assert publish_here(folder) == 2
    assert folder.aliases() == {"champion": 2, "previous": 1}


def test_the_lock_of_a_publisher_that_dies_in_the_middle_of_a_step_is_free(
    folder: ModelFolder, stopped_at: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = stopped_at("rename")
    process.kill()
    process.wait()
    assert publish_here(folder) == 1

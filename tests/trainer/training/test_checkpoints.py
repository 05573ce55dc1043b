import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_contract.model_directory import files
from rhapsode_trainer.checkpoints import Checkpoints
from rhapsode_trainer.errors import CheckpointError


def writer(content: bytes = b"weights") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)
        (folder / "state.json").write_text("{}")

    return write


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(path=tmp_path / "checkpoints", key="key")


def names(checkpoints: Checkpoints) -> set[str]:
    return {path.name for path in checkpoints.path.iterdir()} - {".staging"}


def test_the_newest_is_by_number_and_only_the_newest_two_stay(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    for step in (2, 9, 10):
        path = checkpoints.save(step, writer())
        assert checkpoints.newest() == path
    assert names(checkpoints) == {"checkpoint-9", "checkpoint-10"}


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no manifest", "bad manifest", "bad record"])
def test_what_is_damaged_is_passed_over_and_replaced(damage: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoints = Checkpoints(path=tmp_path, key="key", warn=warnings.append)
    checkpoints.save(1, writer())
    broken = checkpoints.save(2, writer())
    file, manifest = broken / "model.safetensors", broken / "MANIFEST.json"
    match damage:
        case "truncated":
            os.truncate(file, 3)
        case "changed":
            file.write_bytes(b"weighTs")
        case "missing":
            file.unlink()
        case "no manifest":
            manifest.unlink()
        case "bad manifest":
            manifest.write_text("[1")
        case "bad record":
            manifest.write_text(manifest.read_text().replace('"size"', '"seize"'))
    assert checkpoints.newest() == tmp_path / "checkpoint-1"
    assert [message.startswith(f"{broken} is passed over: ") for message in warnings] == [True]
    checkpoints.save(2, writer())
    assert checkpoints.newest() == broken


def test_a_damaged_one_further_on_does_not_outlive_the_next(checkpoints: Checkpoints) -> None:
    for step in (1, 5):
        checkpoints.save(step, writer())
    (checkpoints.path / "checkpoint-5/state.json").unlink()
    checkpoints.save(3, writer())
    assert names(checkpoints) == {"checkpoint-1", "checkpoint-3"}


def test_those_of_another_run_do_not_count_and_go_with_the_first_of_this(tmp_path: Path) -> None:
    Checkpoints(path=tmp_path, key="other").save(100, writer())
    checkpoints = Checkpoints(path=tmp_path, key="key")
    assert checkpoints.newest() is None
    path = checkpoints.save(1, writer())
    assert checkpoints.newest() == path
    assert names(checkpoints) == {"checkpoint-1"}


def test_clear_leaves_nothing(checkpoints: Checkpoints) -> None:
    checkpoints.clear()
    checkpoints.save(1, writer())
    checkpoints.clear()
    assert not checkpoints.path.exists()


@settings(max_examples=40, deadline=None)
@given(crash_at=st.integers(1, 60), content=st.binary(max_size=50))
def test_a_crash_at_any_operation_leaves_the_checkpoints_before_it(
    crash_at: int, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoints = Checkpoints(path=tmp_path_factory.mktemp("crash"), key="key")
    checkpoints.save(1, writer())
    second = checkpoints.save(2, writer(content))
    with _Disk(crash_at) as disk, suppress(Crash):
        checkpoints.save(3, writer())
    third = checkpoints.path / "checkpoint-3"
    assert checkpoints.newest() in ((second, third) if disk.count >= crash_at else (third,))
    assert checkpoints.save(4, writer()) == checkpoints.newest()


class Crash(BaseException):
    """The process is dead."""


class _Disk:
    """`os` of the file operations, all of which fail from the `crash_at`-th on."""

    def __init__(self, crash_at: int) -> None:
        self.crash_at = crash_at
        self.count = 0

    def __getattr__(self, name: str) -> object:
        if name in ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir"):
            self.count += 1
            if self.count >= self.crash_at:
                raise Crash
        return getattr(os, name)

    def __enter__(self) -> "_Disk":
        files.os = self  # type: ignore[assignment]
        return self

    def __exit__(self, *exception: object) -> None:
        files.os = os


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 kB: the nearest to a full disk that needs no privilege.

    To be held around one call only: what the tests print may go to a file as well, and that file may be larger.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_cannot_grow_is_a_clear_error(checkpoints: Checkpoints) -> None:
    _check_refusal(checkpoints, 1 << 17, os.strerror(errno.EFBIG), small_files)


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        _check_refusal(
            Checkpoints(path=tmp_path / "checkpoints", key="key"), 1 << 18, os.strerror(errno.ENOSPC), nullcontext
        )
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def _check_refusal(
    checkpoints: Checkpoints, size: int, reason: str, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    before = checkpoints.save(1, writer())
    with full_disk(), pytest.raises(CheckpointError) as raised:
        checkpoints.save(2, writer(bytes(size)))
    assert reason in str(raised.value)
    assert str(raised.value).startswith(f"cannot write {checkpoints.path / 'checkpoint-2'} (")
    assert names(checkpoints) == {"checkpoint-1"}
    assert not (checkpoints.path / ".staging").exists()
    assert checkpoints.newest() == before
    assert checkpoints.save(2, writer()) == checkpoints.newest()

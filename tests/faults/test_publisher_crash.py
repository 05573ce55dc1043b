"""The publisher dies at every single file operation: cleanly, in the middle of a write, or with the whole machine."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rhapsode_contract.model_directory import Lease, ModelFolder, files, lease, publish, verify_version

OPERATIONS = {"open", "write", "fsync", "ftruncate", "mkdir", "rename", "replace", "unlink", "rmdir"}


class Crash(BaseException):
    """The process is dead: nothing of it runs any more, so nothing may catch this."""


class Disk:
    """`os` with operations that are counted and that all fail from the `crash_at`-th on.

    It also knows what would survive a power failure: a file as it was when it was last synced, and the entries that a
    folder had when it was last synced. What is in `root` at the start is durable.
    """

    def __init__(self, root: Path, *, crash_at: int | None = None, torn: bool = False) -> None:
        self.root = root
        self.crash_at = crash_at
        self.torn = torn
        self.log: list[str] = []
        self.files: dict[int, tuple[int, int]] = {}
        self.folders: dict[int, set[str]] = {}
        for folder, _, names in os.walk(root):
            self._remember(folder)
            for name in names:
                self._remember(os.path.join(folder, name))

    def __getattr__(self, name: str) -> Any:
        return self._counted(name) if name in OPERATIONS else getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        self._step("fsync")
        self._remember(descriptor)

    def mkdir(self, path: Path) -> None:
        self._step("mkdir")
        os.mkdir(path)
        self.folders.pop(os.stat(path).st_ino, None)

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.torn and len(self.log) + 1 == self.crash_at:
            os.write(descriptor, data[: len(data) // 2])
        self._step("write")
        return os.write(descriptor, data)

    def _counted(self, name: str) -> Callable[..., Any]:
        def operation(*arguments: Any) -> Any:
            self._step(name)
            return getattr(os, name)(*arguments)

        return operation

    def _step(self, name: str) -> None:
        self.log.append(name)
        if self.crash_at is not None and len(self.log) >= self.crash_at:
            raise Crash

    def _remember(self, target: int | str) -> None:
        status = os.stat(target)
        if os.path.isdir(target):
            self.folders[status.st_ino] = set(os.listdir(target))
        else:
            self.files[status.st_ino] = (status.st_size, status.st_mtime_ns)

    def lose_power(self) -> None:
        """The worst that a power failure may leave: no entry that was not synced, half of each file that was not."""
        for folder, folders, names in os.walk(self.root):
            durable = self.folders.get(os.stat(folder).st_ino, set())
            for name in {*folders, *names} - durable:
                path = Path(folder, name)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            folders[:] = [name for name in folders if name in durable]
            for path in (os.path.join(folder, name) for name in names if name in durable):
                status = os.stat(path)
                if self.files.get(status.st_ino) != (status.st_size, status.st_mtime_ns):
                    os.truncate(path, status.st_size // 2)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], ModelFolder]:
    """Puts a disk in the place of `os`, an hour later: leases of the dead are stale by then."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: clock.now))

    def on_disk(disk: Disk) -> ModelFolder:
        clock.now += 3600
        monkeypatch.setattr(files, "os", disk)
        return ModelFolder(disk.root / "poems")

    return on_disk


@pytest.fixture(params=[0, 2], ids=["first version", "third version after a crash"])
def start(request: pytest.FixtureRequest, tmp_path: Path, on_disk: Callable[[Disk], ModelFolder]) -> Path:
    """The model directory in which the publisher is to crash: empty, or with two versions and a dead staging folder."""
    models = tmp_path / "start"
    models.mkdir()
    folder = on_disk(Disk(models))
    for _ in range(request.param):
        publish_once(folder)
        (folder.path / ".staging/dead/sub").mkdir(parents=True, exist_ok=True)
        (folder.path / ".staging/dead/sub/half.safetensors").touch()
    return models


@pytest.mark.parametrize("how", ["crash", "torn write", "power failure"])
def test_a_crash_at_any_operation_harms_no_reader_and_no_later_publisher(
    how: str, start: Path, tmp_path: Path, on_disk: Callable[[Disk], ModelFolder]
) -> None:
    undisturbed = Disk(shutil.copytree(start, tmp_path / "undisturbed"))
    planned = publish_once(on_disk(undisturbed))
    assert set(undisturbed.log) | {"unlink"} == OPERATIONS
    assert len(undisturbed.log) > 40

    outcomes = set()
    for at, operation in enumerate(undisturbed.log, start=1):
        if how == "torn write" and operation != "write":
            continue
        models = shutil.copytree(start, tmp_path / f"crash-{at}")
        disk = Disk(models, crash_at=at, torn=how == "torn write")
        with pytest.raises(Crash):
            publish_once(on_disk(disk))
        if how == "power failure":
            disk.lose_power()

        folder = on_disk(Disk(models))
        check_as_a_reader(folder)
        left = folder.versions()
        outcomes.add((planned in left, planned in folder.aliases().values()))
        version = publish_once(folder)
        assert version == max(left, default=0) + 1
        assert folder.versions() == [*left, version]
        assert folder.resolve("champion") == folder.history()[-1]["to"] == version
        assert list((folder.path / ".staging").iterdir()) == []
        check_as_a_reader(folder)
        shutil.rmtree(models)
    assert {(False, False), (True, False), (True, True)} == outcomes


def test_what_is_published_survives_a_power_failure(start: Path, on_disk: Callable[[Disk], ModelFolder]) -> None:
    disk = Disk(start)
    folder = on_disk(disk)
    moves = len(folder.history())
    version = publish_once(folder)
    disk.lose_power()
    check_as_a_reader(folder)
    assert folder.resolve("champion") == version
    assert len(folder.history()) == moves + 1


def publish_once(folder: ModelFolder) -> int:
    def write(staging: Path) -> None:
        files.write_file(staging / "config.json", b"{}")
        files.make_directory(staging / "adapters")
        files.write_file(staging / "adapters/a.json", b"[1, 2, 3]")
        (staging / "model.safetensors").write_bytes(os.urandom(5000))  # as other libraries write: without a sync

    with Lease.acquire(folder, owner="test") as held:
        return publish(folder, held, write=write, dtype="float32", parameter_count=1, actor="test", reason="test")


def check_as_a_reader(folder: ModelFolder) -> None:
    for version in folder.versions():
        verify_version(folder.version_path(version))
    assert set(folder.aliases().values()) <= set(folder.versions())
    assert {move["to"] for move in folder.history()} <= set(folder.versions())

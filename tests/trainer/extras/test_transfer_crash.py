"""The process dies at every single operation of a transfer, cleanly or in the middle of a write, and is run again."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from rhapsode_contract.model_directory import ModelDirectory, ModelFolder, files, verify_version
from rhapsode_trainer import transfer
from rhapsode_trainer.remote import Remote

Publish = Callable[..., ModelFolder]
DISK = {"open", "write", "fsync", "ftruncate", "mkdir", "rename", "replace", "unlink", "rmdir"}
OLD, NEW = {"champion": 2, "previous": 1}, {"champion": 4, "previous": 3}


class Crash(BaseException):
    """The process is dead: nothing of it runs any more, so nothing may catch this."""


class Clock:
    """Counts operations, and stops the process at the `crash_at`-th."""

    def __init__(self, crash_at: int | None, torn: bool) -> None:
        self.crash_at = crash_at
        self.torn = torn
        self.count = 0

    def step(self) -> bool:
        """Whether a write is to be torn before the crash."""
        self.count += 1
        if self.crash_at is None or self.count < self.crash_at:
            return False
        if self.torn and self.count == self.crash_at:
            return True
        raise Crash

    def stop(self, torn: bool) -> None:
        if torn:
            raise Crash


class Disk:
    """`os`, as the model directory uses it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __getattr__(self, name: str) -> Any:
        if name not in DISK:
            return getattr(os, name)

        def operation(*arguments: Any) -> Any:
            self.clock.stop(self.clock.step())
            return None if name == "fsync" else getattr(os, name)(*arguments)

        return operation

    def write(self, descriptor: int, data: memoryview) -> int:
        torn = self.clock.step()
        written = os.write(descriptor, data[: len(data) // 2] if torn else data)
        self.clock.stop(torn)
        return written


class Filesystem:
    """A filesystem of fsspec."""

    def __init__(self, real: Any, clock: Clock) -> None:
        self.real = real
        self.clock = clock

    def __getattr__(self, name: str) -> Any:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.clock.stop(self.clock.step())
            return getattr(self.real, name)(*arguments, **options)

        return operation

    def unstrip_protocol(self, path: str) -> str:
        return str(self.real.unstrip_protocol(path))

    def pipe_file(self, path: str, content: bytes) -> None:
        torn = self.clock.step()
        self.real.pipe_file(path, content[: len(content) // 2] if torn else content)
        self.clock.stop(torn)

    def put_file(self, local: str, path: str) -> None:
        self.pipe_file(path, Path(local).read_bytes())

    def get_file(self, path: str, local: str) -> None:
        content = self.real.cat_file(path)
        torn = self.clock.step()
        Path(local).write_bytes(content[: len(content) // 2] if torn else content)
        self.clock.stop(torn)

    def mv(self, source: str, target: str) -> None:
        torn = self.clock.step()
        if torn and self.real.protocol == "memory":  # no rename there, but a copy
            self.real.copy(source, target)
        elif not torn:
            self.real.mv(source, target)
        self.clock.stop(torn)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a transfer that dies at an operation (None: never), and returns the number of operations."""

    def run(work: Callable[[], object], crash_at: int | None, torn: bool) -> int:
        clock = Clock(crash_at, torn)
        opened = Remote.open

        def faulty(url: str, name: str) -> Remote:
            remote = opened(url, name)
            return Remote(Filesystem(remote.filesystem, clock), remote.root)

        with monkeypatch.context() as patch:
            patch.setattr(files, "os", Disk(clock))
            patch.setattr(Remote, "open", faulty)
            if crash_at is None:
                work()
            else:
                with pytest.raises(Crash):
                    work()
        return clock.count

    return run


def check_reader(root: Path) -> None:
    """Whatever has a manifest is a version, and the aliases are all old or all new, with versions behind them."""
    folder = ModelDirectory(root).model("poems")
    for version in folder.versions():
        verify_version(folder.version_path(version))
    assert folder.aliases() in (OLD, NEW)
    assert set(folder.aliases().values()) <= set(folder.versions())


def copy_memory(memory: Any, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    for path in memory.find("/bucket"):
        local = root / path.removeprefix("/bucket/")
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(memory.cat_file(path))
    return root


def crash_points(run: Callable[[int | None], int]) -> Iterator[int]:
    operations = run(None)
    assert operations > 40
    yield from range(1, operations + 1)


@pytest.fixture
def source(tmp_path: Path, publish_in: Publish, quick_disk: None) -> Path:
    """Four versions; `old` beside it is as it was with two."""
    publish_in(tmp_path / "source", 2)
    shutil.copytree(tmp_path / "source", tmp_path / "old")
    publish_in(tmp_path / "source", 2)
    return tmp_path / "source"


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_push(tmp_path: Path, source: Path, run: Callable[..., int], memory: Any, kind: str, torn: bool) -> None:
    target = tmp_path / "target"
    url = f"file://{target}" if kind == "file" else "memory://bucket"

    def attempt(crash_at: int | None) -> int:
        shutil.rmtree(target, ignore_errors=True)
        memory.store.clear()
        fsspec.filesystem(kind).put(f"{tmp_path}/old/", str(target) if kind == "file" else "/bucket", recursive=True)
        return run(lambda: transfer.push(source, "poems", url), crash_at, torn)

    for crash_at in crash_points(attempt):
        attempt(crash_at)
        check_reader(target if kind == "file" else copy_memory(memory, target))
        transfer.push(source, "poems", url)
        reached = target if kind == "file" else copy_memory(memory, target)
        check_reader(reached)
        assert ModelDirectory(reached).model("poems").aliases() == NEW, crash_at


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_pull(tmp_path: Path, source: Path, run: Callable[..., int], memory: Any, kind: str, torn: bool) -> None:
    url = f"file://{source}" if kind == "file" else "memory://bucket"
    target = tmp_path / "target"
    memory.put(f"{source}/", "/bucket", recursive=True)

    def attempt(crash_at: int | None) -> int:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(tmp_path / "old", target)
        return run(lambda: transfer.pull(url, target, "poems"), crash_at, torn)

    for crash_at in crash_points(attempt):
        attempt(crash_at)
        check_reader(target)
        (target / "poems/.lease").write_bytes(b"")  # else the dead process holds it for a minute
        transfer.pull(url, target, "poems")
        check_reader(target)
        folder = ModelDirectory(target).model("poems")
        assert (folder.aliases(), folder.versions()) == (NEW, [1, 2, 3, 4]), crash_at
        assert list((folder.path / ".staging").iterdir()) == []

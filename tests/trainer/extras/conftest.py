"""A disk that syncs at once, small published models, and a memory filesystem that each test finds empty."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from rhapsode_contract.model_directory import Lease, ModelDirectory, ModelFolder, files, publish


class QuickDisk:
    """`os` whose fsync costs nothing."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        os.fstat(descriptor)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", QuickDisk())


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def publish_in() -> Callable[..., ModelFolder]:
    """Publishes small versions of `poems` into a model directory; the last one is the champion."""

    def publish_in(root: Path, count: int = 1) -> ModelFolder:
        folder = ModelDirectory(root).model("poems")

        def write(staging: Path) -> None:
            (staging / "config.json").write_text("{}")
            (staging / "empty.txt").touch()
            (staging / "extra").mkdir()
            (staging / "extra" / "model.safetensors").write_bytes(os.urandom(1000))

        with Lease.acquire(folder, owner="test") as lease:
            for _ in range(count):
                publish(folder, lease, write=write, dtype="float32", parameter_count=7, actor="test", reason="because")
        return folder

    return publish_in

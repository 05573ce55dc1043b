"""A disk that syncs at once, and a model folder with a way to publish small versions."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import Lease, ModelDirectory, ModelFolder, files, publish


class QuickDisk:
    """`os` whose fsync costs nothing."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        os.fstat(descriptor)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", QuickDisk())


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelDirectory(tmp_path / "models").model("poems")


def write_version(staging: Path) -> None:
    (staging / "config.json").write_text("{}")
    (staging / "model.safetensors").write_bytes(os.urandom(1000))


@pytest.fixture
def publish_one(folder: ModelFolder) -> Callable[..., int]:
    """Publishes one small version, with any argument of `publish` replaced."""

    def publish_one(**changes: object) -> int:
        arguments = {
            "write": write_version,
            "dtype": "float32",
            "parameter_count": 7,
            "actor": "test",
            "reason": "because",
            **changes,
        }
        with Lease.acquire(folder, owner="test") as lease:
            return publish(folder, lease, **arguments)

    return publish_one

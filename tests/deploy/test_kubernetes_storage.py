"""Models reach a server through a bucket: what components/object-storage runs, run here between folders."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from rhapsode_contract.model_directory import Lease, ModelDirectory, publish
from support.kubernetes import Resource, containers, environment, pod_templates, rendered

PATIENCE = 60.0


@pytest.fixture
def places(tmp_path: Path) -> Mapping[str, str]:
    """Environment of the trainer's and the server's side, and the bucket between them."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MODELS_URL": (tmp_path / "bucket").as_uri(),
        "PULL_SECONDS": "0.1",
    }


def container(name: str) -> tuple[Resource, Mapping[str, str]]:
    """A container of the component, and its settings."""
    resources = rendered("object-storage")
    (found,) = (each for _, pod in pod_templates(resources) for each in containers(pod) if each["name"] == name)
    return found, environment(found, resources)


def test_what_is_pushed_is_pulled(tmp_path: Path, places: Mapping[str, str]) -> None:
    trained, served = tmp_path / "trained", tmp_path / "served"
    publish_version(trained)
    push(trained, places)
    with pulling(served, places) as sidecar:
        wait_for(sidecar, "pulled versions 1")
        publish_version(trained)
        push(trained, places)
        wait_for(sidecar, "pulled versions 2")
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(PATIENCE) == 0
    assert ModelDirectory(served).model("poems").aliases()["champion"] == 2


def publish_version(models: Path) -> None:
    folder = ModelDirectory(models).model("poems")
    folder.path.mkdir(parents=True, exist_ok=True)
    with Lease.acquire(folder, owner="test") as lease:
        publish(folder, lease, write=write, dtype="float32", parameter_count=1, actor="test", reason="a test")


def write(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def push(models: Path, places: Mapping[str, str]) -> None:
    step, settings = container("push")
    settings = {**settings, **places, "RHAPSODE_MODELS": str(models)}
    arguments = [text.replace("$(", "{").replace(")", "}").format(**settings) for text in step["args"]]
    subprocess.run(
        ["rhapsode-train", *arguments], env=settings, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL
    )


@contextmanager
def pulling(models: Path, places: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    sidecar, settings = container("pull")
    environ = {**settings, **places, "RHAPSODE_MODELS": str(models)}
    process = subprocess.Popen(sidecar["command"], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")

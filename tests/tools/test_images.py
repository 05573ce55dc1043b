"""`make images` against stand-ins for docker, podman and buildah."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "images.py"
WORKS = 'echo "$(basename "$0") $*" >> "$CALLS"'
FAILS_TO_BUILD = f'{WORKS}; [ "$1" = info ]'
HAS_NO_DAEMON = "exit 1"


@pytest.fixture
def build(tmp_path: Path):
    """Runs the program where only these builders are; returns how it ended, and what was built."""

    def run(builders: dict[str, str], *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        calls = tmp_path / "calls"
        calls.touch()
        for name, script in builders.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:/bin:/usr/bin", "CALLS": str(calls)}
        for name in {"docker", "podman", "buildah"} - set(builders):
            (tmp_path / name).write_text("#!/bin/sh\nexit 127\n")
            (tmp_path / name).chmod(0o755)
        command = [sys.executable, str(PROGRAM), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done, [line for line in calls.read_text().splitlines() if not line.endswith(" info")]

    return run


def test_both_images_are_built(build):
    done, calls = build({"docker": WORKS}, "--torch", "cpu")
    assert done.returncode == 0, done.stderr
    assert [call.split()[:4] for call in calls] == [
        ["docker", "build", "--file", f"Dockerfile.{image}"] for image in ("serve", "train")
    ]
    assert all("--build-arg TORCH=cpu --tag rhapsode-" in call for call in calls)
    assert done.stdout.splitlines()[-1] == "Built: rhapsode-serve:0.1.0-cpu rhapsode-train:0.1.0-cpu"


def test_a_client_without_its_daemon_is_passed_over(build):
    _, calls = build({"docker": HAS_NO_DAEMON, "podman": WORKS, "buildah": WORKS}, "serve")
    assert [call.split()[0] for call in calls] == ["podman"]


def test_buildah_keeps_layers_and_gets_further_flags(build):
    _, calls = build({"buildah": WORKS}, "train", "--", "--network", "host")
    (call,) = calls
    assert call.startswith("buildah build --layers --file Dockerfile.train --build-arg TORCH=cuda ")
    assert call.endswith(" --network host .")


def test_without_a_builder_it_says_what_would_do(build):
    done, _ = build({})
    assert done.returncode == 1
    assert done.stderr == "images: none of docker, podman, buildah works here: install one, or start docker's daemon\n"


def test_a_failed_build_ends_it(build):
    done, calls = build({"podman": FAILS_TO_BUILD})
    assert done.returncode == 1
    assert len(calls) == 1
    assert "images: building rhapsode-serve:0.1.0-cuda failed with exit code 1" in done.stderr

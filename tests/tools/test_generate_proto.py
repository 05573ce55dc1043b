"""The check of the generated code, on a copy of proto/ that may be spoilt."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path("proto/rhapsode/v1")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / FOLDER, tmp_path / FOLDER, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "generate_proto.py", tmp_path / "tools")
    return tmp_path


def generate(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_proto.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / FOLDER).iterdir() if path.is_file()}


def test_the_committed_code_is_that_of_the_proto_files(copy: Path):
    done = generate(copy, "--check")
    assert done.returncode == 0, done.stderr


def test_every_difference_is_named_and_repaired(copy: Path):
    before = contents(copy)
    (copy / FOLDER / "models_pb2.pyi").unlink()
    (copy / FOLDER / "gone_pb2.py").write_text("")
    with (copy / FOLDER / "generation_pb2_grpc.py").open("a") as file:
        file.write("# edited\n")
    spoilt = contents(copy)

    done = generate(copy, "--check")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "proto/rhapsode/v1/generation_pb2_grpc.py: differs",
        "proto/rhapsode/v1/gone_pb2.py: its .proto is gone",
        "proto/rhapsode/v1/models_pb2.pyi: missing",
        "The generated code is not that of the .proto files: run `make proto` and commit it.",
    ]
    assert contents(copy) == spoilt

    assert generate(copy).returncode == 0
    assert contents(copy) == before


def test_an_invalid_proto_file_fails_and_changes_nothing(copy: Path):
    (copy / FOLDER / "broken.proto").write_text('syntax = "proto3";\nmessage {}\n')
    before = contents(copy)
    done = generate(copy)
    assert done.returncode != 0
    assert "broken.proto:2" in done.stderr
    assert contents(copy) == before

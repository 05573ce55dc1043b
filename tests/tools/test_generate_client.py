"""The check of the blocking client, on a copy that may be spoilt."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path("client/rhapsode_client")
GENERATED = ("client.py", "many.py", "streams.py")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir(parents=True)
    for path in (ROOT / FOLDER).glob("*.py"):
        shutil.copy(path, tmp_path / FOLDER)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "generate_client.py", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def generate(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_client.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / FOLDER).iterdir() if path.is_file()}


def test_the_committed_code_is_that_of_the_asyncio_client(copy: Path):
    done = generate(copy, "--check")
    assert done.returncode == 0, done.stderr


def test_every_difference_is_named_and_repaired(copy: Path):
    before = contents(copy)
    (copy / FOLDER / "many.py").unlink()
    with (copy / FOLDER / "client.py").open("a") as file:
        file.write("# edited\n")
    spoilt = contents(copy)

    done = generate(copy, "--check")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "client/rhapsode_client/client.py: differs",
        "client/rhapsode_client/many.py: differs",
        "The blocking client is not that of the asyncio one: run `make client` and commit it.",
    ]
    assert contents(copy) == spoilt

    assert generate(copy).returncode == 0
    assert contents(copy) == before


@pytest.mark.parametrize("name", GENERATED)
def test_nothing_of_asyncio_is_left(name: str):
    text = (ROOT / FOLDER / name).read_text("utf-8")
    for word in ("Async", "async ", "await", "asyncio", "__a"):
        assert word not in text.replace("async_", "", 1).replace("__all__", "")

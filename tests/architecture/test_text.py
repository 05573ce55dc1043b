"""What committed text must not hold: paths of somebody's machine, and notes of work undone."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Images and manifests describe a machine of their own.
PATHS_ALLOWED = ("tests/", "deploy/", "Dockerfile", ".gitignore")
MACHINE_PATH = re.compile(r"(?<![\w.$)}/-])/(?:tmp|home|root|Users|work)/\w\S*")
UNDONE = re.compile(r"\b(?:TODO|FIXME)\b")


def offending(text: str, path: str) -> list[str]:
    patterns = [UNDONE] if path.startswith(PATHS_ALLOWED) else [UNDONE, MACHINE_PATH]
    return [
        f"{path}:{number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for pattern in patterns
        for match in pattern.finditer(line)
    ]


def committed_files() -> list[Path]:
    """Also those about to be committed; generated code and this file aside."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in done.stdout.split("\0") if name and "_pb2" not in name)
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def test_no_committed_file_holds_it():
    found = []
    for path in committed_files():
        text = path.read_text("utf-8", errors="replace")
        found += offending(text, path.relative_to(ROOT).as_posix())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("README.md", "run\ncd /home/ada/rhapsode", ["README.md:2: /home/ada/rhapsode"]),
        ("client/a.py", 'open("/tmp/x")', ['client/a.py:1: /tmp/x")']),
        ("tests/a.py", 'open("/tmp/x")  # TODO close', ["tests/a.py:1: TODO"]),
        ("docs/a.md", "https://example.org/home/page ./work/run tmp/x $HOME/work/x", []),
    ],
)
def test_it_is_caught(path: str, text: str, found: list[str]):
    assert offending(text, path) == found

"""Where the picture cannot be taken, the tool says why."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "photograph_playground.py"


def test_without_a_browser_it_says_what_it_takes(tmp_path: Path):
    pytest.importorskip("playwright", reason="needs playwright: make install")
    picture = tmp_path / "picture.png"
    command = [sys.executable, PROGRAM, "127.0.0.1:1", picture]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "photograph_playground: it takes Chromium: install it\n"
    assert not picture.exists()

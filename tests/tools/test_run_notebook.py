"""Notebooks run without Jupyter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "run_notebook.py"


def notebook(*sources: str) -> dict[str, Any]:
    code = [{"cell_type": "code", "metadata": {}, "source": source.splitlines(keepends=True)} for source in sources]
    return {"cells": [{"cell_type": "markdown", "source": ["# Title"]}, *code], "nbformat": 4, "nbformat_minor": 5}


def run(path: Path, *sources: str) -> subprocess.CompletedProcess[str]:
    path.write_text(json.dumps(notebook(*sources)))
    return subprocess.run([sys.executable, str(TOOL), str(path)], capture_output=True, text=True, check=False)


def test_cells_share_a_namespace_and_show_what_they_print_and_end_with(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    shown = "class Shown:\n    def _repr_html_(self):\n        return '<b>bold</b>'\n"
    done = run(path, "x = 2\nprint('a\\nb')", "x + 1", "", f"{shown}\nShown()", "None")
    assert done.returncode == 0, done.stderr
    outputs = [cell["outputs"] for cell in json.loads(path.read_text())["cells"][1:]]
    assert outputs[0] == [{"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n"]}]
    assert outputs[1][0]["data"] == {"text/plain": ["3"]}
    assert outputs[3][0]["data"]["text/html"] == ["<b>bold</b>"]
    assert outputs[2] == outputs[4] == []


@pytest.mark.parametrize("source", ["1 / 0", "print('unfinished'"])
def test_a_cell_that_fails_changes_nothing(tmp_path: Path, source: str) -> None:
    path = tmp_path / "a.ipynb"
    done = run(path, "1", source)
    assert done.returncode == 1
    assert json.loads(path.read_text()) == notebook("1", source)

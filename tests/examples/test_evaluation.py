"""The notebook, cell by cell."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from .conftest import EXAMPLES, Run

NOTEBOOK = EXAMPLES / "evaluation" / "evaluation.ipynb"
TOOL = EXAMPLES.parent / "tools" / "run_notebook.py"


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


def check(shown: list[dict[str, Any]]) -> None:
    table, verdict, change, texts = shown
    assert len(re.findall(r"^ *\d+\.\d{3} +\d+\.\d{3}  \w", "".join(table["text"]), re.M)) == 6
    assert re.search(r"bits per byte, 95% interval [+-]\d+\.\d{3} to", verdict["text"][0])
    assert verdict["text"][1].strip() in ("better", "worse", "no clear difference")
    assert "".join(change["data"]["text/html"]).count("<span style=") > 20
    assert "".join(texts["text"]).count("--- poems, version") == 4


def test_the_notebook_runs(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "evaluation.ipynb"
    shutil.copy(NOTEBOOK, copy)
    run(sys.executable, str(TOOL), str(copy), example="evaluation")
    check(outputs(copy))


def test_what_it_shows_is_stored() -> None:
    check(outputs(NOTEBOOK))
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    assert [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"] == [1, 2, 3, 4, 5]

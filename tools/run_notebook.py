"""Runs the code of a notebook and stores what each cell shows: `python tools/run_notebook.py FILE.ipynb`.

Cells are plain Python that share one namespace; a cell shows what it prints, and its last expression. Jupyter is not
needed.
"""

import ast
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Output = dict[str, Any]


def main() -> int:
    """Returns the exit code."""
    for path in map(Path, sys.argv[1:]):
        notebook = json.loads(path.read_text("utf-8"))
        store(notebook)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def store(notebook: Notebook) -> None:
    """Run all cells and put their outputs in place."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell["execution_count"] = count
        cell["outputs"] = run("".join(cell["source"]), namespace, count)


def code_cells(notebook: Notebook) -> Iterator[Output]:
    """The cells that hold code, in order."""
    return (cell for cell in notebook["cells"] if cell["cell_type"] == "code")


def run(source: str, namespace: dict[str, Any], count: int) -> list[Output]:
    """What a cell shows, in the notebook format. Raises what the cell raises."""
    body, value = ast.parse(source).body, None
    with redirect_stdout(io.StringIO()) as printed:
        match body:
            case [*statements, ast.Expr(expression)]:
                exec(compile(ast.Module(statements, []), "<cell>", "exec"), namespace)
                value = eval(compile(ast.Expression(expression), "<cell>", "eval"), namespace)
            case _:
                exec(compile(ast.Module(body, []), "<cell>", "exec"), namespace)
    return [*_stream(printed.getvalue()), *_result(value, count)]


def _stream(text: str) -> list[Output]:
    return [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []


def _result(value: object, count: int) -> list[Output]:
    if value is None:
        return []
    data = {"text/plain": [repr(value)]}
    if show := getattr(value, "_repr_html_", None):
        data["text/html"] = show().splitlines(keepends=True)
    return [{"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"}]


if __name__ == "__main__":
    sys.exit(main())

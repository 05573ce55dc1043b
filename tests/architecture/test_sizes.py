"""A function fits on a screen and a module is one idea."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "proto/rhapsode_contract",
    "client/rhapsode_client",
    "server/rhapsode_server",
    "trainer/rhapsode_trainer",
    "tools",
)
MAX_FUNCTION_LINES = 50
MAX_MODULE_LINES = 350


def long_functions(source: str, path: str) -> list[str]:
    return [
        f"{path}:{node.lineno}: {node.name} has {lines} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def long_modules(source: str, path: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{path}: {lines} lines"] if lines > MAX_MODULE_LINES else []


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("check", [long_functions, long_modules])
def test_nothing_is_too_long(folder, check):
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths
    found = [line for path in paths for line in check(path.read_text("utf-8"), str(path.relative_to(ROOT)))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("lines", "found"), [(50, []), (51, ["bad.py:2: run has 51 lines"])])
def test_a_long_function_is_caught(lines: int, found: list[str]):
    body = "\n".join(["        pass"] * (lines - 1))
    assert long_functions(f"class C:\n    async def run(self):\n{body}\n", "bad.py") == found


@pytest.mark.parametrize(("lines", "found"), [(350, []), (351, ["bad.py: 351 lines"])])
def test_a_long_module_is_caught(lines: int, found: list[str]):
    assert long_modules("pass\n" * lines, "bad.py") == found

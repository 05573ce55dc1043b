"""SECURITY.md promises nothing without a test, and names no test that is not there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_is_there(path: str, name: str) -> None:
    assert name in functions(path)


def test_every_line_of_a_table_names_one() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| tries |")]
    assert len(lines) > 25
    assert [line for line in lines if "::test_" not in line] == []


def test_every_test_of_this_folder_is_on_the_page() -> None:
    """By its file: what is tried here is part of the threat model."""
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert here <= {Path(path).name for path, _ in NAMED}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", PAGE))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()

"""What images install is what the distributions ask for."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "requirements.py"
TOOL = runpy.run_path(str(PROGRAM))
requirements, UnknownExtraError = TOOL["requirements"], TOOL["UnknownExtraError"]
PROJECT = '[project]\nname = "rhapsode-{0}"\ndependencies = [{1}]\n[project.optional-dependencies]\n{2}\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    projects = {
        "proto": ("contract", '"grpcio>=1.76"', 'text = ["ftfy>=6"]\nunused = ["unused"]'),
        "server": (
            "server",
            '"rhapsode-contract[text]==0.1.0", "torch>=2; python_version > \'3\'"',
            'otel = ["sdk>1"]',
        ),
    }
    for folder, parts in projects.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pyproject.toml").write_text(PROJECT.format(*parts))
    return tmp_path


def test_siblings_are_replaced_by_what_they_ask_for(root: Path):
    assert requirements("server", root) == {"grpcio>=1.76", "ftfy>=6", "torch>=2; python_version > '3'"}


def test_extras_are_added(root: Path):
    assert requirements("server[otel]", root) - requirements("server", root) == {"sdk>1"}


def test_an_extra_that_is_not_there_is_named(root: Path):
    with pytest.raises(UnknownExtraError, match="rhapsode-server has no extra 'nothing'"):
        requirements("server[otel,nothing]", root)


def test_the_program_prints_a_line_each():
    done = subprocess.run([sys.executable, PROGRAM, "trainer[text]"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines == sorted(requirements("trainer[text]"))
    assert not [line for line in lines if line.startswith("rhapsode")]


def test_the_program_says_which_extra_is_unknown():
    done = subprocess.run([sys.executable, PROGRAM, "trainer[txt]"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "requirements: rhapsode-trainer has no extra 'txt'\n"

"""Completion in shells."""

import os
import shutil
import subprocess
import sys

import pytest
from rhapsode_client.cli.app import app
from typer.testing import CliRunner

MAIN = "from rhapsode_client.cli.app import main; main()"
PROGRAM = f'#!/bin/sh\nexec {sys.executable} -c "{MAIN}" "$@"\n'
SHELLS = {
    "bash": """
        source <(_RHAPSODE_COMPLETE=source_bash rhapsode)
        COMP_WORDS=(rhapsode to); COMP_CWORD=1
        _rhapsode_completion rhapsode; printf '%s' "${COMPREPLY[@]}"
    """,
    "fish": """
        _RHAPSODE_COMPLETE=source_fish rhapsode | source
        complete --do-complete 'rhapsode to' | string split --fields 1 \\t
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands(tmp_path, shell):
    if not (found := shutil.which(shell)):
        pytest.skip(f"needs {shell}: install the package {shell}")
    program = tmp_path / "rhapsode"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run([found, "-c", SHELLS[shell]], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "tokenize"


@pytest.fixture
def complete(server):
    """What is offered for the last word of a line."""

    def run(*words: str) -> list[str]:
        line = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_RHAPSODE_COMPLETE": "complete_bash"}
        environment = {**line, "RHAPSODE_ADDRESS": server.address}
        return CliRunner().invoke(app, env=environment, prog_name="rhapsode").stdout.split()

    return run


def test_commands_and_options(complete):
    assert complete("rhapsode", "admin", "pro") == ["promote"]
    assert complete("rhapsode", "generate", "--te") == ["--temperature"]


@pytest.mark.parametrize("line", [("generate", "--model"), ("tokenize", "x", "--model"), ("admin", "clear")])
def test_models(complete, line):
    assert complete("rhapsode", *line, "po") == ["poems"]
    assert complete("rhapsode", *line, "od") == []


def test_models_of_another_server(complete, free_address):
    assert complete("rhapsode", "generate", "--address", free_address, "--model", "po") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell):
    done = CliRunner().invoke(app, env={"_RHAPSODE_COMPLETE": f"source_{shell}"}, prog_name="rhapsode")
    assert f"_RHAPSODE_COMPLETE=complete_{shell}" in done.stdout

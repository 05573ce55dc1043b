"""The list of commands, and what holds for all of them."""

import json
import os
import subprocess
import sys

import pytest
import typer
from rhapsode_client import __version__
from rhapsode_client.cli import app as cli
from rhapsode_client.cli import health

MAIN = "from rhapsode_client.cli.app import main; main()"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_says_what_the_command_says(rhapsode, name):
    summary = cli.COMMANDS[name].summary
    assert f"  {name:<9} {summary}\n" in rhapsode("--help").stdout
    shown = rhapsode(name, "--help")
    assert shown.exit_code == 0
    assert shown.stdout.split("\n\n")[1].strip().startswith(summary)


def test_help_documents_the_exit_codes(rhapsode):
    shown = rhapsode("--help").stdout
    for line in ("0    ok", "4    overloaded, unavailable or not reachable", "130  interrupted"):
        assert line in shown


def test_a_name_that_is_nearly_right(rhapsode):
    result = rhapsode("tokenise", "x")
    assert result.exit_code == 2
    assert "Did you mean 'tokenize'?" in result.stderr


def test_the_release(rhapsode):
    assert rhapsode("--version").stdout == f"rhapsode {__version__}\n"


def test_the_list_imports_no_command():
    script = "import json, sys; from rhapsode_client.cli.app import app; app(['--help'], standalone_mode=False); " + (
        "print(json.dumps([name for name in sys.modules if name.startswith(('rhapsode_client.cli', 'rich'))]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name for name in json.loads(done.stdout.splitlines()[-1]) if name.count(".") == 2 or name == "rich"}
    modules = {source.module for source in cli.COMMANDS.values()}
    assert not loaded & (modules | {"rich"})


def test_the_list_takes_less_than_a_second():
    def seconds() -> float:
        process = subprocess.Popen([sys.executable, "-c", MAIN, "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(seconds() for _ in range(2)) < 1


def test_options_stand_in_groups(rhapsode):
    shown = rhapsode("generate", "--help").stdout
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[:2] == ["Arguments:", "Options:"]
    assert titles[-1] == "Connection:"
    assert "Stopping:" in titles


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_closed_is_one_of_nothing(server, stream):
    closed = f"import os; os.close({['stdin', 'stdout', 'stderr'].index(stream)});"
    restarted = f"{closed} os.execv({sys.executable!r}, [{sys.executable!r}, '-c', {MAIN!r}, 'generate', '-'])"
    environment = {**os.environ, "RHAPSODE_ADDRESS": server.address}
    done = subprocess.run([sys.executable, "-c", restarted], input=b"The", capture_output=True, env=environment)
    assert done.returncode == 0
    assert done.stdout == (b"" if stream == "stdout" else b"Sea, sea!\n")
    assert done.stderr == b""
    assert [request.prompt for request in server.requests] == ["" if stream == "stdin" else "The"]


@pytest.mark.parametrize("traceback", ["", "1"])
def test_a_bug_is_told_in_a_line_and_where_it_is_only_if_asked(monkeypatch, capsys, traceback):
    def fail(*_: object) -> None:
        raise KeyError("the bug")

    monkeypatch.setenv("RHAPSODE_TRACEBACK", traceback)
    monkeypatch.setattr(cli, "ready_streams", lambda: None)
    monkeypatch.setattr(health, "connected", fail)
    monkeypatch.setattr(sys, "argv", ["rhapsode", "health"])
    with pytest.raises(KeyError if traceback else SystemExit) as raised:
        cli.main()
    if not traceback:
        assert raised.value.args == (1,)
        assert capsys.readouterr().err.startswith("rhapsode: this should not happen: KeyError: 'the bug'\n")


def test_commands_are_made_of_functions_and_groups():
    group = typer.main.get_command(cli.app)
    assert isinstance(group, cli.LazyGroup)
    assert {"status", "drain"} <= set(group.commands["admin"].commands)
    assert len(group.commands) == len(cli.COMMANDS)

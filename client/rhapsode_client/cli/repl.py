"""`rhapsode repl`: prompts, one after the other, from a person or from standard input."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rhapsode_client import Client, GenerateOptions, RhapsodeError
from rhapsode_client.cli.failures import ExitCode, connected, exit_code, explanation
from rhapsode_client.cli.generate import print_text, summarize
from rhapsode_client.cli.options import Address, Model, Timeout, Verbose
from rhapsode_client.cli.session import Session
from rhapsode_client.cli.terminal import note, read_lines

if TYPE_CHECKING:
    from prompt_toolkit.history import History


def repl(model: Model = "", verbose: Verbose = False, address: Address = None, timeout: Timeout = None) -> None:
    """Continue prompts one after the other.

    /help lists the commands.

    Reads standard input line by line when it is no terminal; the exit code is then that of the last failure.
    """
    session = Session(GenerateOptions(model=model) if model else GenerateOptions())
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    last_failure = ExitCode.OK
    with connected(address, timeout) as client:
        for line in _typed_lines(client.address) if interactive else read_lines():
            last_failure = _answer(client, session, line, verbose=verbose) or last_failure
            if session.ended:
                break
    if not interactive:
        raise typer.Exit(last_failure)


def _answer(client: Client, session: Session, line: str, *, verbose: bool) -> ExitCode:
    """Carries out one line. OK, or the code of what went wrong."""
    if line.startswith("/"):
        if message := session.command(line):
            note(message)
    elif line.strip():
        return _continue(client, session, line, verbose=verbose)
    return ExitCode.OK


def _continue(client: Client, session: Session, prompt: str, *, verbose: bool) -> ExitCode:
    try:
        with client.stream(prompt, **session.options) as stream:
            summarize(print_text(stream), verbose=verbose)
    except KeyboardInterrupt:
        note("[stopped]")
    except RhapsodeError as error:
        note(explanation(error, client))
        return exit_code(error)
    return ExitCode.OK


def _typed_lines(address: str) -> Iterator[str]:
    """What a person types, with editing and history, until Ctrl-D."""
    from prompt_toolkit import PromptSession

    note(f"server {address}; /help lists the commands")
    prompts: PromptSession[str] = PromptSession(history=_history())
    while True:
        try:
            yield prompts.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _history() -> "History":
    """Kept between sessions where the home folder can be written, else for this one."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rhapsode"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history").touch()
    except OSError:
        return InMemoryHistory()
    return FileHistory(folder / "history")

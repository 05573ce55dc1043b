"""`rhapsode repl`: prompts, one after the other, from a person or from standard input."""

import sys
from collections.abc import Iterator

import typer

from rhapsode_client import Client, Completion, GenerateOptions, RhapsodeError
from rhapsode_client.cli.complete import model_names
from rhapsode_client.cli.entries import blocks, typed_lines
from rhapsode_client.cli.failures import ExitCode, connected, exit_code, explanation
from rhapsode_client.cli.options import Json, Verbose
from rhapsode_client.cli.printing import print_logprobs, print_text, summarize
from rhapsode_client.cli.session import Session
from rhapsode_client.cli.settings import takes_settings
from rhapsode_client.cli.slash import carried_out
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import as_json, note, read_lines, write_json


@takes_settings
def repl(json: Json = False, verbose: Verbose = False, *, options: GenerateOptions, target: Target) -> None:
    """Continue prompts one after the other.

    /help lists the commands. --json prints one object for each prompt.

    Reads standard input line by line when it is no terminal; the exit code is then that of the last failure.
    """
    session = Session(options)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    last_failure = ExitCode.OK
    with connected(target) as client:
        lines = _typed(client, session, target) if interactive else read_lines()
        for entry, may_be_command in blocks(lines):
            last_failure = _carried_out(client, session, entry, may_be_command, json, verbose) or last_failure
            if session.ended:
                break
    if not interactive:
        raise typer.Exit(last_failure)


def _typed(client: Client, session: Session, target: Target) -> Iterator[str]:
    note(f"server {client.address}; /help lists the commands")
    return typed_lines(session, lambda: model_names(target))


def _carried_out(
    client: Client, session: Session, entry: str, may_be_command: bool, json: bool, verbose: bool
) -> ExitCode:
    """OK, or the code of what went wrong, which has been told."""
    try:
        text = carried_out(session, entry) if may_be_command else entry
        if text is not None and text.strip():
            _show(_completed(client, session, text, json=json), json=json, verbose=verbose)
    except KeyboardInterrupt:
        note("[stopped]")
    except ValueError as error:
        note(str(error))
        return ExitCode.INVALID
    except RhapsodeError as error:
        note(explanation(error, client))
        return exit_code(error)
    return ExitCode.OK


def _completed(client: Client, session: Session, text: str, *, json: bool) -> Completion:
    with client.stream(session.asked(text), **session.generate_options) as stream:
        completion = stream.result() if json else print_text(stream)
    session.answered(text, completion)
    return completion


def _show(completion: Completion, *, json: bool, verbose: bool) -> None:
    if json:
        write_json(as_json(completion))
    else:
        print_logprobs(completion)
    summarize(completion, verbose=verbose)

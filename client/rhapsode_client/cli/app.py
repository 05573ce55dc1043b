"""The command `rhapsode`."""

import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from rhapsode_client import __version__
from rhapsode_client.cli.commands import CommandSource, LazyGroup
from rhapsode_client.cli.failures import ExitCode
from rhapsode_client.cli.terminal import note, ready_streams, write

EPILOG = """\
\b
Exit codes:
  0    ok
  1    the server failed or refused, a part failed, or the output was not taken
  2    bad usage or invalid request
  3    no such model, version or service
  4    overloaded, unavailable or not reachable
  5    the timeout ended first
  130  interrupted
"""
_REPORT = "  please report it; RHAPSODE_TRACEBACK=1 shows where it happened"


def _command(module: str, summary: str, attribute: str = "") -> CommandSource:
    return CommandSource(
        module=f"rhapsode_client.cli.{module}", attribute=attribute or module.rpartition(".")[2], summary=summary
    )


COMMANDS: Mapping[str, CommandSource] = {
    "generate": _command("generate", "Continue PROMPT."),
    "repl": _command("repl", "Continue prompts one after the other."),
    "batch": _command("batch.command", "Complete the prompts of a file.", "batch"),
    "score": _command("score.command", "Show how likely a model finds texts.", "score"),
    "tokenize": _command("tokenize", "Show the tokens of TEXT."),
    "models": _command("tables", "List the models, their versions and states.", "models"),
    "health": _command("health", "Print SERVING or NOT_SERVING."),
    "bench": _command("bench.command", "Put load on a server and measure it.", "bench"),
    "ui": _command("ui", "Try models on a web page."),
    "admin": _command("admin", "Operate one server."),
}
"""Each is imported when it is called. The summary is the first sentence of its help."""


class _Rhapsode(LazyGroup):
    sources = COMMANDS


app = typer.Typer(
    cls=_Rhapsode,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_release(wanted: bool) -> None:
    if wanted:
        write(f"rhapsode {__version__}\n")
        raise typer.Exit


@app.callback()
def rhapsode(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_release, is_eager=True, help="Show the release and exit.")
    ] = False,
) -> None:
    """Generate text with the models of a Rhapsode server."""


def main() -> None:
    """Runs the command line."""
    ready_streams()
    try:
        app(prog_name="rhapsode")
    except Exception as error:
        if os.environ.get("RHAPSODE_TRACEBACK"):
            raise
        note(f"rhapsode: this should not happen: {type(error).__name__}: {error}\n{_REPORT}")
        sys.exit(ExitCode.FAILED)

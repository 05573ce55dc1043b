"""The command `rhapsode`."""

import typer

from rhapsode_client.cli.admin import admin
from rhapsode_client.cli.generate import generate
from rhapsode_client.cli.health import health
from rhapsode_client.cli.repl import repl
from rhapsode_client.cli.tables import models, tokenize
from rhapsode_client.cli.terminal import tolerate_any_text

EPILOG = """\
\b
Exit codes:
  0    ok
  1    the server failed or refused, or the output could not be written
  2    bad usage or invalid request
  3    no such model, version or service
  4    overloaded, unavailable or not reachable
  5    the timeout ended first
  130  interrupted
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Generate text with the models of a Rhapsode server.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (generate, repl, models, health, tokenize):
    app.command()(command)
app.add_typer(admin)


def main() -> None:
    """Runs the command line."""
    tolerate_any_text()
    app(prog_name="rhapsode")

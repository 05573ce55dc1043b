"""Arguments and options that commands share."""

from typing import Annotated

import typer

from rhapsode_client.connection import DEFAULT_ADDRESS, check_timeout


def seconds(text: str) -> float:
    """A timeout as typed."""
    try:
        value = float(text)
        check_timeout(value)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a positive number of seconds") from None
    return value


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="RHAPSODE_ADDRESS",
        help=f"Where the server is. Default: {DEFAULT_ADDRESS}.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", parser=seconds, help="How long a call may take. Default: no limit."),
]
Model = Annotated[
    str,
    typer.Option("--model", metavar="NAME", help="Which model. Default: the only one, else the server's default."),
]
Version = Annotated[
    int | None,
    typer.Option("--version", metavar="N", help="Which version of the model. Default: the alias champion."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print the summary line even if stderr is no terminal.")]

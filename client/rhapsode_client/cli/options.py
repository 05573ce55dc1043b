"""Arguments and options that commands share."""

import re
from collections.abc import Mapping
from typing import Annotated

import typer

from rhapsode_client.connection import DEFAULT_ADDRESS, DEFAULT_ADMIN_ADDRESS, check_timeout

_UNITS: Mapping[str, float] = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """A timeout as typed."""
    try:
        value = float(text)
        check_timeout(value)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a positive number of seconds") from None
    return value


def duration(text: str) -> float:
    """How long something holds, as typed, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not a duration; write a number with its unit: 90s, 30m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="RHAPSODE_ADDRESS",
        help=f"Where the server is. Default: {DEFAULT_ADDRESS}.",
    ),
]
AdminAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="RHAPSODE_ADMIN_ADDRESS",
        help=f"Where the server's AdminService is. Default: {DEFAULT_ADMIN_ADDRESS}.",
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
NamedModel = Annotated[str, typer.Argument(metavar="MODEL", help="Which model.", show_default=False)]
NamedVersion = Annotated[
    int, typer.Argument(metavar="VERSION", min=1, help="Which version of the model.", show_default=False)
]
For = Annotated[
    float | None,
    typer.Option("--for", metavar="DURATION", parser=duration, help="How long it holds, such as 2h. Default: 1h."),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown in the status and the log.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print the summary line even if stderr is no terminal.")]

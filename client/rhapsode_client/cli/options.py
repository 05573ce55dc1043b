"""Arguments and options that commands share."""

import re
from collections.abc import Mapping
from typing import Annotated

import typer

from rhapsode_client.cli.complete import complete_model
from rhapsode_client.connection import check_timeout

CONNECTION = "Connection"
"""The title under which help screens list how the server is reached."""

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


Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        envvar="RHAPSODE_TIMEOUT",
        parser=seconds,
        help="How long a call may take. Default: no limit.",
        rich_help_panel=CONNECTION,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Which model. Default: the only one, else the server's default.",
        autocompletion=complete_model,
    ),
]
Version = Annotated[
    int | None,
    typer.Option("--version", metavar="N", help="Which version of the model. Default: the alias champion."),
]
NamedModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="Which model.", show_default=False, autocompletion=complete_model)
]
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

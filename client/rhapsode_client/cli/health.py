"""`rhapsode health`: is the server taking requests?"""

import time
from typing import Annotated

import typer

from rhapsode_client import Client, DeadlineExceeded, NotFound, Retryable
from rhapsode_client.cli.failures import ExitCode, connected
from rhapsode_client.cli.options import Json, duration
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import write, write_json

_SERVING = "SERVING"

# Between two looks, and at most for each: a server that hangs is asked again.
_INTERVAL = 0.25
_PATIENCE = 5.0


def health(
    service: Annotated[
        str, typer.Option(metavar="NAME", help="A service, such as model/poems. Default: the whole server.")
    ] = "",
    wait: Annotated[
        float | None,
        typer.Option(metavar="DURATION", parser=duration, help="Wait so long until it is SERVING, such as 60s."),
    ] = None,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Print SERVING or NOT_SERVING.

    The exit code is 0 only when SERVING.
    """
    with connected(target) as client:
        status = client.health(service) if wait is None else _awaited(client, service, time.monotonic() + wait)
        if json:
            write_json({"service": service, "status": status})
        else:
            write(status + "\n")
    if status != _SERVING:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def _awaited(client: Client, service: str, end: float) -> str:
    """The last status. A server that does not answer yet, or does not know the service yet, is asked again."""
    while True:
        left = max(end - time.monotonic(), _INTERVAL)
        try:
            status = client.health(service, timeout=min(left, _PATIENCE))
        except (Retryable, DeadlineExceeded, NotFound):
            if time.monotonic() >= end:
                raise
            status = ""
        if status == _SERVING or time.monotonic() >= end:
            return status
        time.sleep(_INTERVAL)

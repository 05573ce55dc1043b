"""`rhapsode health`: is the server taking requests?"""

from typing import Annotated

import typer

from rhapsode_client.cli.failures import ExitCode, connected
from rhapsode_client.cli.options import Address, Timeout
from rhapsode_client.cli.terminal import write


def health(
    service: Annotated[
        str, typer.Option(metavar="NAME", help="A service, such as model/poems. Default: the whole server.")
    ] = "",
    address: Address = None,
    timeout: Timeout = None,
) -> None:
    """Print SERVING or NOT_SERVING.

    The exit code is 0 only when SERVING.
    """
    with connected(address, timeout) as client:
        status = client.health(service)
        write(status + "\n")
    if status != "SERVING":
        raise typer.Exit(ExitCode.UNAVAILABLE)

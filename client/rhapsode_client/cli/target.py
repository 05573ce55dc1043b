"""How a command reaches a server: the same options for all of them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from rhapsode_client.cli.options import CONNECTION, Timeout
from rhapsode_client.cli.parameters import gathers
from rhapsode_client.connection import DEFAULT_ADDRESS, DEFAULT_ADMIN_ADDRESS
from rhapsode_client.retries import DEFAULT_RETRIES

Target = Mapping[str, Any]
"""The arguments of a client."""

_ADDRESS = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="RHAPSODE_ADDRESS",
        rich_help_panel=CONNECTION,
        help=f"Where the server is. Default: {DEFAULT_ADDRESS}.",
    ),
]
_ADMIN_ADDRESS = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="RHAPSODE_ADMIN_ADDRESS",
        rich_help_panel=CONNECTION,
        help=f"Where the server's AdminService is. Default: {DEFAULT_ADMIN_ADDRESS}.",
    ),
]


def _text(metavar: str, variable: str, help: str) -> Any:
    return Annotated[str | None, typer.Option(metavar=metavar, envvar=variable, help=help, rich_help_panel=CONNECTION)]


_RETRIES = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        envvar="RHAPSODE_RETRIES",
        help=f"How often a call is tried again that the server could not take, 0 to {DEFAULT_RETRIES}.",
        rich_help_panel=CONNECTION,
    ),
]
_OTHERS: Mapping[str, Any] = {
    "timeout": Timeout,
    "config": _text(
        "FILE", "RHAPSODE_CONFIG", "Settings for what is not given here. Default: ~/.config/rhapsode/client.toml."
    ),
    "token": _text("TOKEN", "RHAPSODE_TOKEN", "A token that the server knows; better in the variable."),
    "tls_ca": _text(
        "FILE", "RHAPSODE_TLS_CA", "Encrypt, and trust servers that these authorities (PEM, or: public) vouch for."
    ),
    "tls_cert": _text("FILE", "RHAPSODE_TLS_CERT", "Your own certificate (PEM), where the server asks for one."),
    "tls_key": _text("FILE", "RHAPSODE_TLS_KEY", "The key of --tls-cert (PEM)."),
    "tls_server_name": _text(
        "NAME", "RHAPSODE_TLS_SERVER_NAME", "The name in the server's certificate. Default: that in the address."
    ),
}


def calls_server(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with these options, which it gets together as `target`."""
    return gathers(command, "target", {"address": _ADDRESS, "retries": _RETRIES, **_OTHERS})


def calls_admin(command: Callable[..., None]) -> Callable[..., None]:
    """As `calls_server`, of the AdminService."""
    return gathers(command, "target", {"address": _ADMIN_ADDRESS, **_OTHERS})

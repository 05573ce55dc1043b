"""`rhapsode models` and `rhapsode tokenize`: results in columns."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from rhapsode_client.cli.failures import connected
from rhapsode_client.cli.options import Address, Json, Model, Timeout, Version
from rhapsode_client.cli.terminal import as_json, note, printable, write_json
from rhapsode_client.results import Model as ServedModel
from rhapsode_client.results import ModelVersion, Token


def models(json: Json = False, address: Address = None, timeout: Timeout = None) -> None:
    """List the models, their versions and states."""
    with connected(address, timeout) as client:
        served = client.models()
        if json:
            write_json([as_json(model) for model in served])
        elif served:
            print_table(
                ("model", "version", "aliases", "state", "dtype", "device", "context"),
                [_version_row(model, version) for model in served for version in model.versions],
            )
        else:
            note("the server knows no model yet")


def tokenize(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text.")],
    model: Model = "",
    version: Version = None,
    json: Json = False,
    address: Address = None,
    timeout: Timeout = None,
) -> None:
    """Show the tokens of TEXT.

    Offsets are in UTF-8 bytes.
    """
    with connected(address, timeout) as client:
        tokens = client.tokenize(text, model=model, version=version)
        if json:
            write_json([as_json(token) for token in tokens])
        else:
            print_table(("id", "piece", "start", "end"), [_token_row(token) for token in tokens])


def _version_row(model: ServedModel, version: ModelVersion) -> Sequence[str]:
    aliases = [alias for alias, number in model.aliases.items() if number == version.version]
    return (
        model.name,
        str(version.version),
        ", ".join(aliases),
        f"{version.state}: {version.reason}" if version.reason else version.state,
        version.dtype,
        version.device,
        str(version.limits.context_length) if version.limits else "",
    )


def _token_row(token: Token) -> Sequence[str]:
    return str(token.id), token.piece, str(token.start), str(token.end)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns, wide enough for what is in them; cells are taken literally."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in header:
        table.add_column(name, no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*(Text(printable(cell, sys.stdout)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)

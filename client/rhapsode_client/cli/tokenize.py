"""`rhapsode tokenize`: what the model sees of a text."""

import sys
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Annotated

import typer

from rhapsode_client import Token
from rhapsode_client.cli.failures import connected
from rhapsode_client.cli.options import Json, Model, Version
from rhapsode_client.cli.tables import print_table, styled
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import as_json, read_all, write_json

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = tuple(f"black on {colour}" for colour in ("bright_cyan", "bright_yellow", "bright_green", "bright_magenta"))


def tokenize(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The text. -: standard input, without its final newline.")
    ],
    model: Model = "",
    version: Version = None,
    table: Annotated[bool, typer.Option("--table", help="A table on a terminal too.")] = False,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Show the tokens of TEXT.

    In colours on a terminal, else as a table. Offsets are in UTF-8 bytes.
    """
    from rich.console import Console

    with connected(target) as client:
        content = read_all() if text == "-" else text
        tokens = client.tokenize(content, model=model, version=version)
        console = Console(highlight=False)
        if json:
            write_json([as_json(token) for token in tokens])
        elif table or console.no_color or console.color_system is None:
            rows = [(str(token.id), token.piece, str(token.start), str(token.end)) for token in tokens]
            print_table(("id", "piece", "start", "end"), rows, numbers=("id", "start", "end"))
        else:
            _print_coloured(console, content.encode(), tokens)


def _print_coloured(console: "Console", text: bytes, tokens: Sequence[Token]) -> None:
    """The text with each token on a ground of its own; a line break is a token's \\n and begins a new line."""
    from rich.text import Text

    shown = Text()
    for token, style in zip(tokens, cycle(_STYLES)):
        for line in _part(text, token).splitlines(keepends=True):
            shown.append(styled(line.rstrip("\n") + ("\\n" if line.endswith("\n") else ""), style))
            shown.append("\n" if line.endswith("\n") else "")
    console.print(shown, soft_wrap=True)
    console.print(f"{len(tokens)} tokens, {len(text)} bytes", style="dim")
    sys.stdout.flush()


def _part(text: bytes, token: Token) -> str:
    """What a token stands for; U+FFFD where it holds part of a character."""
    return text[token.start : token.end].decode("utf-8", "replace")

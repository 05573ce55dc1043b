"""The arguments and options of `rhapsode score`."""

from pathlib import Path
from typing import Annotated

import typer

from rhapsode_client.cli.files import readable_file

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", parser=readable_file, help="Texts. -: standard input."),
]
IsDocument = Annotated[
    bool,
    typer.Option(
        "--document/--fragment",
        help="A whole document, between end-of-sequence tokens as in training; or a part of one, whose first "
        "token is not predicted and does not count.",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="A text longer than the context is scored in windows: each token sees N before it at least. "
        "Default: half of the context.",
    ),
]
HeatMap = Annotated[
    bool | None,
    typer.Option(
        "--heat-map/--no-heat-map",
        help="Show the text, coloured by how surprising its tokens are. Default: the beginning of a single text, "
        "on a terminal.",
        show_default=False,
    ),
]
TopLogprobs = Annotated[
    int, typer.Option(metavar="N", min=0, help="With --json: the N likeliest tokens of each place too.")
]

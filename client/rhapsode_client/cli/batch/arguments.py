"""The arguments and options of `rhapsode batch`."""

from pathlib import Path
from typing import Annotated

import typer

from rhapsode_client.cli.files import readable_file, writable_file

Source = Annotated[
    Path,
    typer.Argument(metavar="PROMPTS", parser=readable_file, help="JSON lines. -: standard input."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", parser=writable_file, help="Completions. Default: standard output."),
]
Failed = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=writable_file,
        help="Failures of this run. Default: OUT.failed.jsonl beside OUT.jsonl, else standard error.",
    ),
]
Concurrency = Annotated[int, typer.Option(metavar="N", min=1, help="Requests under way at a time.")]
InOrder = Annotated[
    bool, typer.Option("--in-order/--as-finished", help="Write completions in the order of the prompts.")
]
Json = Annotated[bool, typer.Option("--json", help="Print how it went as JSON; needs --output.")]

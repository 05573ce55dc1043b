"""The arguments and options of `rhapsode bench`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from rhapsode_client.cli.bench.objectives import Objective
from rhapsode_client.cli.bench.workload import Lengths
from rhapsode_client.cli.files import readable_file
from rhapsode_client.cli.options import duration

T = TypeVar("T")


def _told(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse`, whose ValueError is told to the person."""

    def told(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return told


def _some_time(text: str) -> float:
    if not (value := duration(text)):
        raise ValueError("must be above 0")
    return value


Concurrency = Annotated[
    int, typer.Option(metavar="N", min=1, help="Callers, each of which asks again once it is answered.")
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        min=0.001,
        max=100_000,
        help="Instead: R requests a second on average, whatever the answers do.",
    ),
]
Duration = Annotated[
    float,
    typer.Option("--duration", metavar="DURATION", parser=_told(_some_time), help="How long to measure, such as 30s."),
]
Requests = Annotated[int | None, typer.Option(metavar="N", min=1, help="Measure so many requests at most.")]
WarmUp = Annotated[float, typer.Option(metavar="DURATION", parser=duration, help="Load before the measuring begins.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=readable_file,
        help="Prompts, a line each; of a .jsonl file as `rhapsode batch` reads them.",
    ),
]
PromptTokens = Annotated[
    Lengths,
    typer.Option(
        metavar="N|MIN:MAX", parser=_told(Lengths.parse), help="Without --prompts: tokens drawn at random, so many."
    ),
]
MaxNewTokens = Annotated[
    Lengths, typer.Option(metavar="N|MIN:MAX", parser=_told(Lengths.parse), help="Tokens to generate for each.")
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos/--stop-at-eos", help="Generate all of them, past the end-of-sequence token.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of arrivals, prompts, lengths and completions.")]
Slo = Annotated[
    list[Objective] | None,
    typer.Option(
        metavar="NAME=BOUND",
        parser=_told(Objective.parse),
        help="Exit with 1 unless it is met; repeatable. ttft, itl or total with _p50 _p90 _p95 _p99 or _max, "
        "such as ttft_p99=200ms; tokens_per_second=500; requests_per_second=5; error_rate=1%.",
    ),
]

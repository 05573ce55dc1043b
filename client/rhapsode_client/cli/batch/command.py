"""`rhapsode batch`: the completions of a file of prompts."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from rhapsode_client import AsyncClient, GenerateOptions
from rhapsode_client.cli.batch import arguments
from rhapsode_client.cli.batch.lines import ItemId, lines_of, num_lines
from rhapsode_client.cli.batch.output import Outputs, done_ids
from rhapsode_client.cli.batch.run import Batch, Tally
from rhapsode_client.cli.failures import ExitCode, connected
from rhapsode_client.cli.settings import takes_settings
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import note, write_json


@takes_settings
def batch(
    source: arguments.Source,
    output: arguments.Output = None,
    failed: arguments.Failed = None,
    concurrency: arguments.Concurrency = 8,
    in_order: arguments.InOrder = True,
    json: arguments.Json = False,
    *,
    options: GenerateOptions,
    target: Target,
) -> None:
    """Complete the prompts of a file.

    A line of PROMPTS is a JSON object: a prompt (a text, token ids or messages), perhaps an id, and any option of
    this command by its Python name, such as {"prompt": "The sea", "id": 7, "max_new_tokens": 20}, which then goes
    before that of the command line. A line of the output is its id, or the number of its line, and the completion.

    The same command again goes on where the last one ended: what the output holds is not asked again. The exit
    code is 1 if any prompt failed.
    """
    if json and output is None:
        raise typer.BadParameter("needs --output, as the completions are printed already", param_hint="--json")
    tally, began = Tally(), time.monotonic()
    with connected(target):
        done, outputs = _opened(output, failed or _beside(output))
        work = Batch(
            outputs=outputs, options=options, done=done, concurrency=concurrency, in_order=in_order, tally=tally
        )
        try:
            with outputs, _progress(source, tally):
                asyncio.run(_answer(work, source, target))
        finally:
            _show(tally, time.monotonic() - began, json=json)
    if tally.failed:
        raise typer.Exit(ExitCode.FAILED)


async def _answer(work: Batch, source: Path, target: Target) -> None:
    async with AsyncClient(**target) as client:
        await work.run(client, lines_of(source))


def _beside(output: Path | None) -> Path | None:
    return output.with_name(f"{output.stem}.failed{output.suffix}") if output else None


def _opened(output: Path | None, failed: Path | None) -> tuple[set[ItemId], Outputs]:
    """What is done, and where the rest goes."""
    try:
        done = done_ids(output) if output else set()
        return done, Outputs(output, failed)
    except ValueError as error:
        note(f"rhapsode: {error}")
    except OSError as error:
        note(f"rhapsode: {error.filename}: {error.strerror}")
    raise typer.Exit(ExitCode.INVALID)


@contextmanager
def _progress(source: Path, tally: Tally) -> Iterator[None]:
    """A bar on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=num_lines(source), note="")

        def changed() -> None:
            note = f"{tally.failed:,} failed, {tally.tokens:,} tokens"
            progress.update(task, completed=tally.lines, note=note)

        tally.changed = changed
        yield


def _show(tally: Tally, seconds: float, *, json: bool) -> None:
    if json:
        counts = {name: getattr(tally, name) for name in ("done", "done_before", "failed", "tokens")}
        write_json({**counts, "seconds": seconds})
        return
    before = f", {tally.done_before:,} were there" if tally.done_before else ""
    rate = f", {tally.tokens / seconds:,.0f} tokens/s" if tally.tokens else ""
    note(f"[{tally.done:,} done{before}, {tally.failed:,} failed, {tally.tokens:,} tokens in {seconds:,.1f} s{rate}]")

"""`rhapsode bench`: a load generator to point at a deployment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import typer

from rhapsode_client import Client, GenerateOptions
from rhapsode_client.arguments import Prompt
from rhapsode_client.cli.bench import arguments
from rhapsode_client.cli.bench.figures import Figures
from rhapsode_client.cli.bench.objectives import Verdict
from rhapsode_client.cli.bench.report import report
from rhapsode_client.cli.bench.run import Load, run
from rhapsode_client.cli.bench.workload import Workload, prompts_of, vocabulary_size
from rhapsode_client.cli.failures import ExitCode, connected
from rhapsode_client.cli.options import Json, Model, Version
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import as_json, note, write, write_json


def bench(
    concurrency: arguments.Concurrency = 8,
    rate: arguments.Rate = None,
    duration: arguments.Duration = "10s",  # type: ignore[assignment]  # typer parses it
    requests: arguments.Requests = None,
    warm_up: arguments.WarmUp = "2s",  # type: ignore[assignment]
    prompts: arguments.Prompts = None,
    prompt_tokens: arguments.PromptTokens = "64",  # type: ignore[assignment]
    max_new_tokens: arguments.MaxNewTokens = "64",  # type: ignore[assignment]
    ignore_eos: arguments.IgnoreEos = True,
    seed: arguments.Seed = 0,
    slo: arguments.Slo = None,
    model: Model = "",
    version: Version = None,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Put load on a server and measure it.

    Times count from when a request was due: with --rate, a server that stalls is charged for all who waited.
    Requests are not tried again.
    """
    load = Load(concurrency=concurrency, rate=rate, warm_up=warm_up, duration=duration, requests=requests, seed=seed)
    with connected(target) as client:
        workload = Workload(
            prompts=_prompts(prompts) if prompts else (),
            prompt_tokens=prompt_tokens,
            completion_tokens=max_new_tokens,
            vocabulary_size=0 if prompts else _vocabulary_size(client, model, version),
            options=GenerateOptions(model=model, version=version, ignore_eos=ignore_eos),
            seed=seed,
        )
        note(f"{_described(load, workload)}, at {client.address}")
        measured = asyncio.run(run(target, load, workload))
        verdicts = [objective.verdict(measured) for objective in slo or ()]
        _show(measured, verdicts, json=json)
    if not all(verdict.met for verdict in verdicts):
        raise typer.Exit(ExitCode.FAILED)


def _prompts(path: Path) -> Sequence[tuple[Prompt, GenerateOptions]]:
    try:
        return prompts_of(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--prompts") from None


def _vocabulary_size(client: Client, model: str, version: int | None) -> int:
    served = client.model(model)
    if (size := vocabulary_size(served.versions, version)) is None:
        which = served.name if version is None else f"version {version} of {served.name}"
        note(f"rhapsode: {which} is not loaded; `rhapsode models` shows why")
        raise typer.Exit(ExitCode.UNAVAILABLE)
    return size


def _described(load: Load, workload: Workload) -> str:
    how = f"{load.concurrency} callers" if load.rate is None else f"{load.rate:g} requests/s"
    what = f"{len(workload.prompts)} prompts" if workload.prompts else f"prompts of {workload.prompt_tokens} tokens"
    until = f"{load.duration:g} s" + (f" or {load.requests} requests" if load.requests else "")
    return f"{how}, {what}, {workload.completion_tokens} new tokens, for {until} after {load.warm_up:g} s of warm-up"


def _show(measured: Figures, verdicts: list[Verdict], *, json: bool) -> None:
    if json:
        write_json(as_json(measured, error_rate=measured.error_rate, objectives=[each._asdict() for each in verdicts]))
    else:
        write("".join(f"{line}\n" for line in report(measured, verdicts)))

"""Commands that bring versions elsewhere, and judgements of people back."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rhapsode_contract.model_directory import ModelDirectory, ModelFolder
from rich.console import Console

from .cli_options import Model, Models, Name, model_folder
from .environment import prepare_libraries, silence_libraries
from .errors import ConfigError

exchange = typer.Typer()
rate = typer.Typer(help="Human evaluation: a blind A/B sheet, and what the ratings say.", no_args_is_help=True)
exchange.add_typer(rate, name="rate")

Url = Annotated[str, typer.Argument(help="Where to, such as s3://bucket/models or file:///mnt/models.")]


@exchange.command()
def push(url: Url, name: Name, models: Models = Path("models")) -> None:
    """Copy the versions and aliases of a model to a URL: files first, aliases last."""
    from .transfer import push as push_model

    done = push_model(models, name, url)
    Console().print(f"pushed {_listed(done.versions)}; aliases {json.dumps(dict(done.aliases))}", highlight=False)


@exchange.command()
def pull(url: Url, name: Name, models: Models = Path("models")) -> None:
    """Copy the versions and aliases of a model from a URL, each version verified before it appears."""
    from .transfer import pull as pull_model

    done = pull_model(url, models, name)
    Console().print(f"pulled {_listed(done.versions)}; aliases {json.dumps(dict(done.aliases))}", highlight=False)


@rate.command("export")
def export_ratings(
    name: Model,
    a: Annotated[int, typer.Argument(help="A version.")],
    b: Annotated[int, typer.Argument(help="Another version.")],
    out: Annotated[Path, typer.Option(help="Folder for the sheet and its key.")] = Path("sheet"),
    prompts: Annotated[
        Path | None, typer.Option(help="New prompts, one on each line; else the recorded samples are taken.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of what is written to new prompts.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the texts, and of which version stands on which side.")] = 0,
    models: Models = Path("models"),
) -> None:
    """Write a blind sheet of what two versions made of the same prompts and seeds: of new prompts, or of recorded."""
    from .rating import export_sheet

    folder = model_folder(models, name)
    pairs = _recorded(folder, a, b) if prompts is None else _drawn(folder, a, b, prompts, seed, max_new_tokens)
    sheet = export_sheet(out, pairs, versions={"a": f"{name} {a}", "b": f"{name} {b}"}, seed=seed)
    Console().print(f"hand out: {sheet.html} or {sheet.csv}\nkeep:     {sheet.key}", highlight=False, soft_wrap=True)


@rate.command("import")
def import_rated(
    key: Annotated[Path, typer.Argument(help="key.json of the sheet.")],
    ratings: Annotated[list[Path], typer.Argument(help="The filled files.")],
    models: Models = Path("models"),
) -> None:
    """Record what the ratings say beside the versions, and print it: preference with its interval, and agreement."""
    from .rating import import_ratings
    from .rating.recording import record_rating

    record = import_ratings(key, ratings)
    record_rating(ModelDirectory(models), record)
    typer.echo(json.dumps(record, indent=2))


def _recorded(folder: ModelFolder, a: int, b: int) -> list[tuple[str, str, str]]:
    from .commands.compare import compare

    pairs = [(pair.prompt, pair.a, pair.b) for pair in compare(folder, a, b).samples]
    if not pairs:
        raise ConfigError(f"{folder.name}: versions {a} and {b} have no samples of the same prompt and seed")
    return pairs


def _drawn(
    folder: ModelFolder, a: int, b: int, prompts: Path, seed: int, max_new_tokens: int
) -> list[tuple[str, str, str]]:
    prepare_libraries()
    silence_libraries()
    from .rating.drawing import draw_pairs, read_prompts

    return draw_pairs(folder, a, b, read_prompts(prompts), seed=seed, max_new_tokens=max_new_tokens)


def _listed(versions: object) -> str:
    return "versions " + ", ".join(map(str, versions)) if versions else "nothing new"  # type: ignore[call-overload]

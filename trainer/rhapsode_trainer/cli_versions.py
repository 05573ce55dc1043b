"""Commands about versions that exist: look, compare, measure, collect."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rhapsode_contract.model_directory import ModelDirectory
from rich.console import Console

from .cli_options import Model, Models, Version, model_folder
from .data.corpus import load_corpus, read_documents
from .data.settings import SourceConfig
from .environment import prepare_libraries, silence_libraries

versions = typer.Typer()


@versions.command("list")
def list_models(models: Models = Path("models")) -> None:
    """List the models of a model directory, their versions, aliases and numbers."""
    from .commands.listing import list_versions, render_list

    found = list_versions(ModelDirectory(models))
    Console().print(render_list(found) if found else f"no models in {models}", soft_wrap=not found, highlight=False)


@versions.command()
def compare(name: Model, a: Version, b: Version, models: Models = Path("models")) -> None:
    """Show what differs between two versions: numbers with intervals, configuration, samples side by side."""
    from .commands.compare import compare as compare_versions
    from .commands.compare import render_comparison

    Console().print(render_comparison(compare_versions(model_folder(models, name), a, b)))


@versions.command()
def gc(
    name: Model,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions stay.")],
    models: Models = Path("models"),
    grace_hours: Annotated[float, typer.Option(min=0, help="How long a version stays in the trash.")] = 24.0,
    feedback_dir: Annotated[
        Path | None, typer.Option(help="Verdicts of servers: versions that they refused do not count as newest.")
    ] = None,
) -> None:
    """Throw old versions away; the newest one and those with an alias (pinned ones too) or a weight stay."""
    from .commands.garbage import collect, render_collected

    grace = timedelta(hours=grace_hours)
    collected = collect(model_folder(models, name), keep=keep, grace=grace, feedback=feedback_dir)
    Console().print(render_collected(collected))


@versions.command()
def evaluate(
    version: Annotated[Path, typer.Argument(help="Folder of a version, such as models/poems/1.")],
    data: Annotated[str, typer.Option(help="File, folder or glob. Default: what its run held out.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at a time; it changes no number.")] = 8,
    stride: Annotated[int | None, typer.Option(min=1, help="Default: that of its recipe.")] = None,
) -> None:
    """Measure a version exactly: the numbers of the run that made it, or those on other documents."""
    from .commands.records import recorded_recipe

    recipe = recorded_recipe(version)
    documents = read_documents(recipe.data, [SourceConfig(path=data)]) if data else load_corpus(recipe.data).held_out
    prepare_libraries()
    from .commands.evaluate import evaluate_version, render_evaluation

    silence_libraries()
    result = evaluate_version(version, documents, rows=recipe.rows, batch_size=batch_size, stride=stride)
    Console().print(render_evaluation(result))

"""The command line. Commands import torch and transformers only when they need them, so that the others are quick."""

from pathlib import Path
from typing import Annotated

import typer
from rhapsode_contract.model_directory import (
    VerificationError,
    verify_version,
)
from rich.console import Console

from .cli_exchange import exchange
from .cli_fleet import fleet
from .cli_jobs import jobs
from .cli_options import Models, Name
from .cli_versions import versions
from .environment import prepare_libraries, silence_libraries
from .errors import SourceError
from .leases import busy_if_held, held_lease

app = typer.Typer(
    help="Train, measure and publish language models into a model directory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(jobs)
app.add_typer(versions)
app.add_typer(fleet)
app.add_typer(exchange)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face folder of a causal language model.")],
    name: Name,
    models: Models = Path("models"),
) -> None:
    """Publish an existing model as a verified version, without training.

    Exit codes: 0 published, 2 the folder cannot be published, 75 another publisher is at work: run it again, 1 else.
    """
    console = Console()
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")
    with busy_if_held(), held_lease(models, name) as lease:
        prepare_libraries()
        from .publish.folder import publish_folder

        silence_libraries()
        version = publish_folder(folder, lease.folder, lease)
    console.print(f"Published: {version}, loaded back and verified", highlight=False, soft_wrap=True)
    console.print(f"Next:      rhapsode-serve --models {models}", highlight=False, soft_wrap=True)


@app.command()
def verify(version: Annotated[Path, typer.Argument(help="Folder of a version, such as models/poems/1.")]) -> None:
    """Prove that every file of a version is what its manifest says.

    Exit codes: 0 verified, 1 not; then file and reason are named.
    """
    try:
        manifest = verify_version(version)
    except VerificationError as error:
        typer.echo(f"{version}: {error.file}: {error.reason}: {error.detail}", err=True)
        raise typer.Exit(1) from None
    size = sum(record.size for record in manifest.files.values())
    for file in sorted(manifest.files):
        typer.echo(f"  ok  {file}  sha256 {manifest.files[file].sha256}")
    typer.echo(
        f"{version}: verified: {len(manifest.files)} files, {size:,} bytes, "
        f"{manifest.parameter_count:,} parameters, {manifest.dtype}"
    )

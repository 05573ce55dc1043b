"""The command line. Commands import torch and transformers only when they need them, so that the others are quick."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rhapsode_contract.model_directory import (
    Lease,
    LeaseHeld,
    ModelDirectory,
    ModelFolder,
    VerificationError,
    verify_version,
)
from rich.console import Console

from .cli_exchange import exchange
from .cli_options import Models, Name
from .cli_versions import versions
from .config import load_recipe, recipe_names
from .environment import prepare_libraries, silence_libraries
from .errors import Busy, ConfigError, GateRejected, Interrupted, SourceError
from .identity import identify, version_with_key
from .interruption import watch_signals
from .status import Status

app = typer.Typer(
    help="Train, measure and publish language models into a model directory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(versions)
app.add_typer(exchange)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help=f"Recipe: {', '.join(recipe_names())}.")],
    name: Name,
    models: Models = Path("models"),
    work_dir: Annotated[
        Path, typer.Option(help="Logs of the run; never inside the model directory.", envvar="RHAPSODE_WORK_DIR")
    ] = Path("work"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe; repeatable.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run even if nothing is new, and publish whatever the gate says.")
    ] = False,
    max_minutes: Annotated[
        float | None, typer.Option(help="Time for everything; the training schedule is fitted into it.")
    ] = None,
    feedback_dir: Annotated[
        Path | None, typer.Option(help="Verdicts of the servers on versions.", envvar="RHAPSODE_FEEDBACK_DIR")
    ] = None,
    textfile: Annotated[Path | None, typer.Option(help="Progress for Prometheus' textfile collector.")] = None,
) -> None:
    """Train by a recipe and publish the result as a verified version.

    Exit codes: 0 published or skipped, 2 bad configuration, 3 data rejected, 4 model rejected, 75 interrupted, 1 else.
    """
    console = Console()
    resolved = load_recipe(recipe, overrides or ())
    with watch_signals() as interruption, _skipping_if_held(console), _lease(models, name, interruption.check) as lease:
        key = identify(resolved)
        if not force and (version := version_with_key(lease.folder, key)) is not None:
            console.print(f"nothing new: version {version} was made of the same data, recipe and code", highlight=False)
            raise typer.Exit(0)
        _make_directory("--work-dir", work_dir / name)
        prepare_libraries()
        console.print("Loading torch and transformers ...", highlight=False)
        from .report import print_report
        from .run import Options, Run

        silence_libraries()
        options = Options(key=key, force=force, feedback_dir=feedback_dir, max_minutes=max_minutes)
        status = Status(work_dir / name / "status.json", key=key, textfile=textfile)
        with _final_phase(status):
            work = Run(recipe, resolved, lease.folder, work_dir / name, console, interruption, status, options)
            result = work.execute(lease)
            print_report(console, result, models)
            if not result.verdict.accepted:
                raise GateRejected(f"{result.version} is kept as candidate: {result.verdict.summary}")


@contextmanager
def _final_phase(status: Status) -> Iterator[None]:
    """How the run ended, for whoever reads its status."""
    try:
        yield
    except Interrupted:
        status.phase("interrupted")
        raise
    except GateRejected:
        status.phase("refused")
        raise
    except BaseException:
        status.phase("failed")
        raise
    status.phase("published")


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
    with _busy_if_held(), _lease(models, name) as lease:
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


@contextmanager
def _skipping_if_held(console: Console) -> Iterator[None]:
    """On a schedule, a run that finds another at work has nothing to do."""
    try:
        yield
    except LeaseHeld as error:
        console.print(f"skipped: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(0) from None


@contextmanager
def _busy_if_held() -> Iterator[None]:
    """This folder was not published, whatever the other publisher does."""
    try:
        yield
    except LeaseHeld as error:
        raise Busy(f"not published: {error}") from None


@contextmanager
def _lease(models: Path, name: str, check: Callable[[], None] = lambda: None) -> Iterator[Lease]:
    """The lease of the model for the duration of the block. Raises LeaseHeld when its holder lives."""
    try:
        folder: ModelFolder = ModelDirectory(models).model(name)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from None
    _make_directory("--models", folder.path)
    try:
        from .publish.actor import actor

        lease = Lease.acquire_or_outlive(folder, owner=actor(), check=check)
    except OSError as error:
        raise ConfigError(f"--models: cannot write in {folder.path}: {error.strerror}") from None
    with lease:
        yield lease


def _make_directory(option: str, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: cannot write to {path}: {error.strerror}") from None

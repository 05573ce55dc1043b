"""The lease of a model, as commands take it, and what they do when somebody else has it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rhapsode_contract.model_directory import Intervention, Lease, LeaseHeld, ModelFolder
from rich.console import Console

from .cli_options import make_directory, model_folder
from .errors import Busy, ConfigError
from .publish.actor import actor


@contextmanager
def skipping_if_held(console: Console) -> Iterator[None]:
    """On a schedule, a run that finds another at work has nothing to do."""
    try:
        yield
    except LeaseHeld as error:
        console.print(f"skipped: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(0) from None


@contextmanager
def busy_if_held() -> Iterator[None]:
    """This folder was not published, whatever the other publisher does."""
    try:
        yield
    except LeaseHeld as error:
        raise Busy(f"not published: {error}") from None


@contextmanager
def intervention(folder: ModelFolder) -> Iterator[Intervention]:
    """The right to a step that cannot wait for a run to end. Raises ConfigError when the model cannot be written."""
    try:
        yield Intervention()
    except OSError as error:
        raise ConfigError(f"--models: cannot write in {folder.path}: {error.strerror}") from None


@contextmanager
def held_lease(models: Path, name: str, check: Callable[[], None] = lambda: None) -> Iterator[Lease]:
    """The lease of the model for the duration of the block. Raises LeaseHeld when its holder lives."""
    folder = model_folder(models, name, option="--name")
    make_directory("--models", folder.path)
    try:
        lease = Lease.acquire_or_outlive(folder, owner=actor(), check=check)
    except OSError as error:
        raise ConfigError(f"--models: cannot write in {folder.path}: {error.strerror}") from None
    with lease:
        yield lease

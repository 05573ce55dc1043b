"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rhapsode_contract.model_directory import ModelDirectory, ModelFolder

from .errors import ConfigError

Models = Annotated[Path, typer.Option(help="The model directory.", envvar="RHAPSODE_MODELS")]
Name = Annotated[str, typer.Option(help="Name of the model in the model directory.")]
Version = Annotated[int, typer.Argument(help="Number of a version.")]
Model = Annotated[str, typer.Argument(help="Name of the model in the model directory.", metavar="NAME")]


def model_folder(models: Path, name: str, *, option: str = "NAME") -> ModelFolder:
    """Raises ConfigError for a name that no model can have."""
    try:
        return ModelDirectory(models).model(name)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def make_directory(option: str, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: cannot write to {path}: {error.strerror}") from None

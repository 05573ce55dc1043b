"""Commands that decide, for all servers, which version serves. They do not wait for a training run to end."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from .cli_options import Model, Models, Version, model_folder
from .errors import ConfigError

fleet = typer.Typer()

Reason = Annotated[str, typer.Option(help="Why; it is recorded in the history.")]
Force = Annotated[bool, typer.Option("--force", help="Even if its gate refused it.")]


@fleet.command()
def promote(
    name: Model, version: Version, models: Models = Path("models"), reason: Reason = "", force: Force = False
) -> None:
    """Make a version the champion, which servers then move to."""
    from .commands.aliases import promote as promote_version
    from .commands.aliases import render_move

    _print(render_move(promote_version(model_folder(models, name), version, reason=reason, force=force)))


@fleet.command()
def rollback(name: Model, models: Models = Path("models"), reason: Reason = "") -> None:
    """Make the previous champion the champion again."""
    from .commands.aliases import render_move
    from .commands.aliases import rollback as roll_back

    _print(render_move(roll_back(model_folder(models, name), reason=reason)))


@fleet.command()
def pin(
    name: Model, version: Version, models: Models = Path("models"), reason: Reason = "", force: Force = False
) -> None:
    """Hold all servers on a version, whatever is published or promoted meanwhile."""
    from .commands.aliases import pin as pin_version
    from .commands.aliases import render_pin

    _print(render_pin(pin_version(model_folder(models, name), version, reason=reason, force=force)))


@fleet.command()
def unpin(name: Model, models: Models = Path("models"), reason: Reason = "") -> None:
    """Let servers go on to the champion, or to the split by weights if there is one."""
    from .commands.aliases import render_pin
    from .commands.aliases import unpin as unpin_model

    _print(render_pin(unpin_model(model_folder(models, name), reason=reason)))


@fleet.command()
def traffic(
    name: Model,
    weights: Annotated[list[str] | None, typer.Argument(help="Versions and their weights.", metavar="V=WEIGHT")] = None,
    models: Models = Path("models"),
    reason: Reason = "",
    clear: Annotated[bool, typer.Option("--clear", help="Send all requests to the champion again.")] = False,
    force: Force = False,
) -> None:
    """Split requests between versions in proportion to weights, such as 12=90 13=10.

    A version of weight 0 is loaded for requests that name it.
    """
    from .commands.traffic import parse_weights, render_split, split_traffic

    if bool(weights) == clear:
        raise ConfigError("traffic: give weights such as 12=90 13=10, or --clear to send all requests to the champion")
    split = split_traffic(model_folder(models, name), parse_weights(weights or []), reason=reason, force=force)
    _print(render_split(split))


def _print(text: Text) -> None:
    Console().print(text, highlight=False, soft_wrap=True)

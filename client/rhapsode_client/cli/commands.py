"""Commands that are imported when they are called, and help screens whose options stand in groups."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from rhapsode_client.cli.target import calls_server

# Some releases of typer put required arguments into braces.
_BRACES = str.maketrans("", "", "{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSource:
    """Where a command is, and what the list of commands says about it."""

    module: str
    attribute: str
    """A function that takes `target`, or a `typer.Typer` of such."""
    summary: str
    """The first sentence of the command's own help."""


class GroupedCommand(TyperCommand):
    """Its options stand under the title that `rich_help_panel` gives them, those without one first."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.translate(_BRACES) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            title, record = _help_record(parameter, ctx)
            groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class LazyGroup(TyperGroup):
    """The commands of `sources`, a table that a subclass has."""

    sources: Mapping[str, CommandSource] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Imported(self.sources)  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.sources)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, source.summary) for name, source in self.sources.items()])


class _Imported(Mapping[str, Any]):
    """Commands by name; looking one up imports it."""

    def __init__(self, sources: Mapping[str, CommandSource]) -> None:
        self._sources = sources

    def __getitem__(self, name: str) -> Any:
        return _imported(name, self._sources[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def register(app: typer.Typer, command: Callable[..., None], name: str | None = None) -> None:
    """Adds a command whose help screen is grouped."""
    app.command(name, cls=GroupedCommand)(command)


def _imported(name: str, source: CommandSource) -> Any:
    found = getattr(import_module(source.module), source.attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    register(alone, calls_server(found), name)
    return typer.main.get_command(alone)


def _help_record(parameter: Any, ctx: Any) -> tuple[str, tuple[str, str]]:
    """The title that it stands under, and what stands there."""
    name, help = parameter.get_help_record(ctx)
    if parameter.param_type_name == "argument":
        return "Arguments", (name.split()[0], help.removesuffix("  [required]"))
    return parameter.rich_help_panel or "Options", (name, help)

"""`rhapsode models`, and results in columns."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rhapsode_client import Model, ModelVersion, VersionState
from rhapsode_client.cli.admin_text import share
from rhapsode_client.cli.failures import connected
from rhapsode_client.cli.options import Json
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import as_json, note, printable, write_json

if TYPE_CHECKING:
    from rich.text import Text

STATE_STYLES: Mapping[VersionState, str] = {
    VersionState.SERVING: "green",
    VersionState.READY: "cyan",
    VersionState.QUARANTINED: "bold red",
    VersionState.UNLOADED: "dim",
}
ON_ITS_WAY = "yellow"
"""The style of any other state."""

_COLUMNS = ("model", "version", "aliases", "traffic", "state", "dtype", "device", "context", "bits/byte")


def models(json: Json = False, *, target: Target) -> None:
    """List the models, their versions and states."""
    with connected(target) as client:
        served = client.models()
        if json:
            write_json([as_json(model) for model in served])
        elif served:
            rows = [_version_row(model, version) for model in served for version in model.versions]
            print_table(_COLUMNS, rows, numbers=("version", "traffic", "context", "bits/byte"))
        else:
            note("the server knows no model yet")


def _version_row(model: Model, version: ModelVersion) -> "Sequence[str | Text]":
    aliases = [alias for alias, number in model.aliases.items() if number == version.version]
    bits = version.evaluation.bits_per_byte if version.evaluation else None
    return (
        model.name,
        str(version.version),
        ", ".join(aliases),
        share(model.traffic, version.version),
        _state(version),
        version.dtype,
        version.device,
        str(version.limits.context_length) if version.limits else "",
        "" if bits is None else f"{bits:.3f}",
    )


def _state(version: ModelVersion) -> "Text":
    state = f"{version.state}: {version.reason}" if version.reason else version.state.value
    return styled(state, STATE_STYLES.get(version.state, ON_ITS_WAY))


def styled(content: str, style: str = "") -> "Text":
    """`content` literally, without what could drive a terminal."""
    from rich.text import Text

    return Text(printable(content, sys.stdout), style=style)


def print_table(header: Sequence[str], rows: "Iterable[Sequence[str | Text]]", *, numbers: Sequence[str] = ()) -> None:
    """Columns, wide enough for what is in them, those of `numbers` to the right; cells are taken literally."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in header:
        table.add_column(name, no_wrap=not sys.stdout.isatty(), justify="right" if name in numbers else "left")
    for row in rows:
        table.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)
    sys.stdout.flush()

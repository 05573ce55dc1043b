"""The status of a server as a table: once, or as it changes."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rhapsode_client import ModelVersion, errors
from rhapsode_client.admin import AdminClient, ModelStatus, ServerStatus
from rhapsode_client.cli import admin_text
from rhapsode_client.cli.tables import ON_ITS_WAY, STATE_STYLES, styled
from rhapsode_client.cli.terminal import as_json, note, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_COLUMNS = ("model", "version", "traffic", "state", "running", "waiting", "processes", "aliases")
_STATE = _COLUMNS.index("state")
_NUMBERS = frozenset({"version", "traffic", "running", "waiting"})
_FOLDED = frozenset({"model", "processes", "aliases"})

# A server that hangs must not look like one that is well.
_WATCH_TIMEOUT = 5.0

Show = Callable[[ServerStatus, str], None]
"""Shows the last status, and why there is no later one if there is none."""


def show_status(client: AdminClient, *, json: bool) -> None:
    """Once."""
    status = client.status()
    if json:
        write_json(as_json(status))
    else:
        _print(status)


def watch_status(client: AdminClient, *, interval: float, timeout: float | None, json: bool) -> None:
    """Until interrupted. A server that goes away is waited for; one that was never there is an error."""
    timeout = timeout or _WATCH_TIMEOUT
    with _shown(json=json) as show:
        status, trouble = client.status(timeout=timeout), ""
        while True:
            show(status, trouble)
            time.sleep(interval)
            try:
                status, trouble = client.status(timeout=timeout), ""
            except (errors.Retryable, errors.DeadlineExceeded) as error:
                trouble = f"no answer from {client.address} at {admin_text.clock(datetime.now(UTC))}: {error}"


@contextmanager
def _shown(*, json: bool) -> Iterator[Show]:
    """On a terminal one table that changes; else one after the other, or one line of JSON each."""
    if sys.stdout.isatty() and not json:
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            yield lambda status, trouble: live.update(_view(status, trouble), refresh=True)
    else:
        shown = _print_json if json else _print
        yield lambda status, trouble: note(trouble) if trouble else shown(status)


def _print_json(status: ServerStatus) -> None:
    write_json(as_json(status))


def _print(status: ServerStatus) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 10_000).print(_view(status))
    sys.stdout.flush()


def _view(status: ServerStatus, trouble: str = "") -> "RenderableType":
    from rich.console import Group

    lines = [
        styled(line) for model in status.models for line in (*admin_text.remarks(model), *admin_text.refusals(model))
    ]
    ending = [styled(trouble, "bold red")] if trouble else []
    return Group(styled(admin_text.headline(status), "bold"), _table(status), *lines, *ending)


def _table(status: ServerStatus) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        is_whole = name not in _FOLDED or not sys.stdout.isatty()
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=is_whole, overflow="fold")
    for model in status.models:
        for index, version in enumerate(model.model.versions):
            cells = [styled(cell) for cell in ("" if index else model.model.name, *_cells(model, version))]
            cells[_STATE].stylize(STATE_STYLES.get(version.state, ON_ITS_WAY))
            table.add_row(*cells)
    return table


def _cells(status: ModelStatus, version: ModelVersion) -> Sequence[str]:
    replicas = [each for each in status.replicas if each.version == version.version]
    return (
        str(version.version),
        admin_text.share(status.model.traffic, version.version),
        version.state.value,
        str(sum(each.running for each in replicas)) if replicas else "",
        str(sum(each.waiting for each in replicas)) if replicas else "",
        ("\n" if sys.stdout.isatty() else ", ").join(map(admin_text.process, replicas)),
        ", ".join(alias for alias, number in status.model.aliases.items() if number == version.version),
    )

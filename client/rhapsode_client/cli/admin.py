"""`rhapsode admin`: what operators do to one server."""

import re
from collections.abc import Iterable
from typing import Annotated

import typer

from rhapsode_client.admin import DrainStatus, ModelStatus
from rhapsode_client.cli.admin_table import show_status, watch_status
from rhapsode_client.cli.admin_text import decision_lines, drain_line, version_line
from rhapsode_client.cli.commands import register
from rhapsode_client.cli.failures import connected_admin
from rhapsode_client.cli.options import For, Json, NamedModel, NamedVersion, Reason, seconds
from rhapsode_client.cli.target import Target, calls_admin
from rhapsode_client.cli.terminal import as_json, write, write_json

Weights = Annotated[
    list[str],
    typer.Argument(
        metavar="VERSION=WEIGHT",
        help="Requests are split in proportion to the weights. A version of weight 0 is kept loaded.",
        show_default=False,
    ),
]


def status(
    watching: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", parser=seconds, help="Time between two looks of --watch.")
    ] = 1.0,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Show the server, its models, versions, processes and where requests go."""
    with connected_admin(target) as client:
        if watching:
            watch_status(client, interval=interval, timeout=target["timeout"], json=json)
        else:
            show_status(client, json=json)


def traffic(
    model: NamedModel,
    weights: Weights,
    ttl: For = None,
    reason: Reason = "",
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Split requests between versions, whatever the fleet decides.

    Versions that are not loaded are loaded first; traffic moves once all are proven.
    """
    split = _weights(weights)
    with connected_admin(target) as client:
        _decided(client.set_traffic(split, model, ttl=ttl, reason=reason), json=json)


def clear(
    model: NamedModel,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Let the fleet's decision hold again."""
    with connected_admin(target) as client:
        _decided(client.clear_traffic(model), json=json)


def promote(
    model: NamedModel,
    version: NamedVersion,
    ttl: For = None,
    reason: Reason = "",
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Serve one version until the fleet decides anew."""
    with connected_admin(target) as client:
        _decided(client.promote(version, model, ttl=ttl, reason=reason), json=json)


def pin(
    model: NamedModel,
    version: NamedVersion,
    ttl: For = None,
    reason: Reason = "",
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Serve one version whatever the fleet decides."""
    with connected_admin(target) as client:
        _decided(client.pin(version, model, ttl=ttl, reason=reason), json=json)


def rollback(
    model: NamedModel,
    ttl: For = None,
    reason: Reason = "",
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Serve the version before, until the fleet decides anew."""
    with connected_admin(target) as client:
        _decided(client.rollback(model, ttl=ttl, reason=reason), json=json)


def load(
    model: NamedModel,
    version: NamedVersion,
    ttl: For = None,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Load and prove a version beside those that serve, and wait until it is ready.

    A quarantined version is tried again; if it is the one decided for, its traffic comes back with that.
    """
    with connected_admin(target) as client:
        status = client.load(version, model, ttl=ttl)
        _say(status, [version_line(status, version)], json=json)


def unload(
    model: NamedModel,
    version: NamedVersion,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """End a version that has no traffic; its streams end first."""
    with connected_admin(target) as client:
        status = client.unload(version, model)
        _say(status, [version_line(status, version)], json=json)


def drain(json: Json = False, *, target: Target) -> None:
    """Take the server out of rotation: new calls are refused, open ones go on."""
    with connected_admin(target) as client:
        status = client.drain()
        _say(status, [drain_line(status)], json=json)


def resume(json: Json = False, *, target: Target) -> None:
    """Put the server back into rotation."""
    with connected_admin(target) as client:
        status = client.resume()
        _say(status, [drain_line(status)], json=json)


def _weights(pairs: list[str]) -> dict[int, int]:
    weights: dict[int, int] = {}
    for pair in pairs:
        match = re.fullmatch(r"(\d{1,18})=(\d{1,9})", pair)
        if not match:
            raise typer.BadParameter(f"{pair!r} is not VERSION=WEIGHT, such as 12=90")
        if int(match[1]) in weights:
            raise typer.BadParameter(f"version {match[1]} is given twice")
        weights[int(match[1])] = int(match[2])
    return weights


def _say(result: ModelStatus | DrainStatus, lines: Iterable[str], *, json: bool) -> None:
    if json:
        write_json(as_json(result))
    else:
        write("".join(f"{line}\n" for line in lines))


def _decided(status: ModelStatus, *, json: bool) -> None:
    _say(status, decision_lines(status), json=json)


admin = typer.Typer(
    name="admin",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Operate one server. Decisions hold for it alone and expire; for all servers use rhapsode-train.",
)
for _command in (status, traffic, clear, promote, pin, rollback, load, unload, drain, resume):
    register(admin, calls_admin(_command))

"""What a shell completes besides names of commands and options."""

from collections.abc import Mapping
from typing import Any

import typer

from rhapsode_client import Client, RhapsodeError

_PATIENCE = 1.0


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the models that the server has, if it answers at once."""
    return [name for name in model_names(target_of(context.params)) if name.startswith(incomplete)]


def target_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Where the server is, of what was typed so far."""
    return {name: value for name, value in parameters.items() if name in _WHERE and value is not None}


def model_names(target: Mapping[str, Any]) -> list[str]:
    """Empty if the server does not answer, or refuses to."""
    try:
        with Client(**{**target, "timeout": _PATIENCE}) as client:
            return [model.name for model in client.models()]
    except (RhapsodeError, ValueError):
        return []


_WHERE = frozenset({"address", "config", "token", "tls_ca", "tls_cert", "tls_key", "tls_server_name"})

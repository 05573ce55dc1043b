"""What a caller leaves open: the environment's variables, else a configuration file, else the default.

The file is TOML with the arguments of a client by their names, and `admin_address`:

    address = "rhapsode.example:50051"
    timeout = 30
    tls_ca = "ca.pem"    # relative paths begin at the file
    token = "..."

It is the argument `config`, else RHAPSODE_CONFIG, else ~/.config/rhapsode/client.toml if there is one.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from rhapsode_client.credentials import FILES, PUBLIC, CredentialOptions

Settings = Mapping[str, str]
"""By name; what is left open everywhere is not in it."""

ConfigPath = str | os.PathLike[str] | None

NAMES = ("address", "admin_address", "timeout", "retries", *CredentialOptions.__annotations__)


def settings(config: ConfigPath = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Those of the environment and of the file. Raises ValueError that names the file and what is wrong in it."""
    of_file = _of_file(config or environment.get("RHAPSODE_CONFIG"))
    of_environment = {name: environment.get(f"RHAPSODE_{name.upper()}", "").strip() for name in NAMES}
    return {**of_file, **{name: value for name, value in of_environment.items() if value}}


def number_of_seconds(name: str, settings: Settings) -> float | None:
    """None: not set. Raises ValueError that names the setting."""
    try:
        return float(settings[name]) if name in settings else None
    except ValueError:
        raise ValueError(f"{name}: must be a number of seconds, not {settings[name]!r}") from None


def whole_number(name: str, settings: Settings) -> int | None:
    """None: not set. Raises ValueError that names the setting."""
    try:
        return int(settings[name]) if name in settings else None
    except ValueError:
        raise ValueError(f"{name}: must be a whole number, not {settings[name]!r}") from None


def _of_file(chosen: ConfigPath) -> Settings:
    path = Path(chosen) if chosen else Path("~/.config/rhapsode/client.toml").expanduser()
    if not chosen and not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"config: cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise ValueError(f"config: {path} is not TOML: {error}") from None
    return {name: _value(path, name, value) for name, value in content.items()}


def _value(path: Path, name: str, value: object) -> str:
    if name not in NAMES:
        raise ValueError(f"config: {path}: {name}: no such setting; there are {', '.join(NAMES)}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"config: {path}: {name}: must be a text or a number")
    if name in FILES and value != PUBLIC:
        return str(path.parent / Path(str(value)).expanduser())
    return str(value)

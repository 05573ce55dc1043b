"""`gc`: old versions make room; whatever has an alias or a weight, and the newest ones, stay."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rhapsode_contract.model_directory import Lease, ModelFolder, NoSuchModel, collect_garbage
from rich.text import Text

from ..errors import ConfigError
from ..evaluation.opponent import refused_versions
from ..publish.actor import actor


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Versions moved to the trash and versions that stay, both ascending. `grace` is how long the trash keeps them."""

    model: str
    removed: tuple[int, ...]
    kept: tuple[int, ...]
    grace: timedelta


def collect(folder: ModelFolder, *, keep: int, grace: timedelta, feedback: Path | None = None) -> Collected:
    """Versions that servers refused, by their verdicts in `feedback`, do not count among the newest `keep`.

    Raises ConfigError (a value is out of range, a verdict cannot be understood), CorruptFile, NoSuchModel, LeaseHeld.
    """
    if keep < 1:
        raise ConfigError(f"--keep: {keep} is less than 1: the newest version always stays")
    if grace < timedelta():
        raise ConfigError(f"--grace: {grace} is negative")
    if not folder.path.is_dir():
        raise NoSuchModel(f"no model {folder.name!r} in {folder.path.parent}")
    with Lease.acquire(folder, owner=actor()) as lease:
        refused = refused_versions(folder, feedback)
        removed = collect_garbage(folder, lease, keep=keep, grace=grace, refused=refused)
    return Collected(model=folder.name, removed=tuple(removed), kept=tuple(folder.versions()), grace=grace)


def render_collected(collected: Collected) -> Text:
    """One line."""
    removed, kept = (", ".join(map(str, versions)) or "none" for versions in (collected.removed, collected.kept))
    return Text(f"{collected.model}: to the trash for {collected.grace}: {removed}; kept: {kept}")

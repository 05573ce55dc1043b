"""`promote` and `rollback`: people move the champion; history.jsonl says who and why."""

from dataclasses import dataclass

from rhapsode_contract.model_directory import Lease, ModelFolder, verify_version
from rich.text import Text

from ..errors import ConfigError, GateRejected
from ..publish.actor import actor
from .records import read_json

_CHAMPION, _PREVIOUS = "champion", "previous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The champion of `model` was `before` (None: there was none) and is `after`; they are equal if nothing moved."""

    model: str
    before: int | None
    after: int


def promote(folder: ModelFolder, version: int, *, reason: str = "", force: bool = False) -> Move:
    """Makes a version the champion once all its files verify.

    Raises GateRejected (its gate refused it and `force` is not given), VerificationError, NoSuchModel, NoSuchVersion,
    LeaseHeld.
    """
    path = folder.version_path(version)
    verify_version(path)
    verdict = read_json(path / "evaluation.json").get("verdict")
    refused = isinstance(verdict, dict) and not verdict.get("accepted", False)
    if refused and not force:
        raise GateRejected(f"{folder.name} {version}: its gate refused it; --force promotes it all the same")
    how = "promoted by hand, forced: its gate refused it" if refused else "promoted by hand"
    return _move(folder, version, how, reason)


def rollback(folder: ModelFolder, *, reason: str = "") -> Move:
    """Makes the previous champion the champion again, and the champion the previous one.

    Raises ConfigError (there is no previous one), VerificationError, NoSuchModel, NoSuchVersion, LeaseHeld.
    """
    aliases = folder.aliases()
    if _PREVIOUS not in aliases:
        folder.resolve(_CHAMPION)
        raise ConfigError(f"{folder.name}: no champion before version {aliases[_CHAMPION]} to go back to")
    verify_version(folder.version_path(aliases[_PREVIOUS]))
    return _move(folder, aliases[_PREVIOUS], "rolled back by hand", reason)


def _move(folder: ModelFolder, version: int, how: str, reason: str) -> Move:
    who = actor()
    with Lease.acquire(folder, owner=who) as lease:
        before = folder.aliases().get(_CHAMPION)
        why = f"{how}: {reason}" if reason else how
        folder.set_alias(_CHAMPION, version, lease=lease, actor=who, reason=why)
    return Move(model=folder.name, before=before, after=version)


def render_move(move: Move) -> Text:
    """One line."""
    if move.before == move.after:
        return Text(f"{move.model}: the champion is version {move.after} already")
    was = "there was none" if move.before is None else f"was version {move.before}"
    return Text.assemble(f"{move.model}: the champion is ", (f"version {move.after}", "bold"), f" ({was})")

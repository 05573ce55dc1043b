"""`promote`, `rollback`, `pin` and `unpin`: people decide which version serves; history.jsonl says who and why."""

from dataclasses import dataclass

from rhapsode_contract.model_directory import CHAMPION, PINNED, PREVIOUS, ModelFolder
from rich.text import Text

from ..errors import ConfigError
from ..leases import intervention
from ..publish.actor import actor
from .fitness import check_fit, how_fit
from .holding import what_holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An alias of `model` stood at `before` and stands at `after` (None: it is not set); equal if nothing moved.

    `holding` says what keeps servers from the champion all the same; it is empty when nothing does.
    """

    model: str
    before: int | None
    after: int | None
    holding: str = ""


def promote(folder: ModelFolder, version: int, *, reason: str = "", force: bool = False) -> Move:
    """Makes a version the champion once all its files verify.

    Raises GateRejected (its gate refused it and `force` is not given), VerificationError, NoSuchModel, NoSuchVersion,
    LeaseHeld (somebody is in the middle of a step), ConfigError (the folder cannot be written).
    """
    fit = check_fit(folder, version, force=force)
    return _move(folder, CHAMPION, version, how_fit("promoted by hand", fit), reason)


def rollback(folder: ModelFolder, *, reason: str = "") -> Move:
    """Makes the previous champion the champion again, and the champion the previous one.

    Raises ConfigError (there is no previous one), and what `promote` raises but GateRejected.
    """
    aliases = folder.aliases()
    if PREVIOUS not in aliases:
        folder.resolve(CHAMPION)
        raise ConfigError(f"{folder.name}: no champion before version {aliases[CHAMPION]} to go back to")
    check_fit(folder, aliases[PREVIOUS], force=True)
    return _move(folder, CHAMPION, aliases[PREVIOUS], "rolled back by hand", reason)


def pin(folder: ModelFolder, version: int, *, reason: str = "", force: bool = False) -> Move:
    """Holds all servers on a version, whatever is published or promoted meanwhile. Raises what `promote` raises."""
    fit = check_fit(folder, version, force=force)
    return _move(folder, PINNED, version, how_fit("pinned by hand", fit), reason)


def unpin(folder: ModelFolder, *, reason: str = "") -> Move:
    """Lets servers go on. Raises NoSuchModel, LeaseHeld, ConfigError (the folder cannot be written)."""
    return _move(folder, PINNED, None, "unpinned by hand", reason)


def _move(folder: ModelFolder, alias: str, version: int | None, how: str, reason: str) -> Move:
    why = f"{how}: {reason}" if reason else how
    with intervention(folder) as lease:
        before = folder.aliases().get(alias)
        if version is None:
            folder.drop_alias(alias, lease=lease, actor=actor(), reason=why)
        else:
            folder.set_alias(alias, version, lease=lease, actor=actor(), reason=why)
    holding = what_holds(folder) if alias == CHAMPION or version is None else ""
    return Move(model=folder.name, before=before, after=version, holding=holding)


def render_move(move: Move) -> Text:
    """One line about the champion, and one when servers stay where they are."""
    if move.before == move.after:
        return _with_holding(Text(f"{move.model}: the champion is version {move.after} already"), move)
    was = "there was none" if move.before is None else f"was version {move.before}"
    moved = Text.assemble(f"{move.model}: the champion is ", (f"version {move.after}", "bold"), f" ({was})")
    return _with_holding(moved, move)


def render_pin(move: Move) -> Text:
    """One line about the pin, and one when servers do not go to the champion without it."""
    if move.after is not None:
        again = " already" if move.before == move.after else ""
        pinned = (f"version {move.after}", "bold")
        end = f"; `rhapsode-train unpin {move.model}` lets servers go on"
        return Text.assemble(f"{move.model}: pinned to ", pinned, again, end)
    was = "was not pinned" if move.before is None else f"no longer pinned to version {move.before}"
    return _with_holding(Text(f"{move.model}: {was}"), move)


def _with_holding(line: Text, move: Move) -> Text:
    return line.append(f"\n{move.model}: {move.holding}", "yellow") if move.holding else line

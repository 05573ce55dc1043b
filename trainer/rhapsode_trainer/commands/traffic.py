"""`traffic`: people split the requests of a model between its versions; history.jsonl says who and why."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rhapsode_contract.model_directory import CHAMPION, PINNED, ModelFolder
from rich.text import Text

from ..errors import ConfigError
from ..leases import intervention
from ..publish.actor import actor
from .fitness import check_fit, how_fit
from .holding import render_weights

_WEIGHT = re.compile(r"([1-9][0-9]{0,17})=([0-9]{1,10})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The weights of a model's versions (none: all requests go to the champion); `pinned` goes before them."""

    model: str
    weights: Mapping[int, int]
    champion: int | None
    pinned: int | None


def parse_weights(arguments: Sequence[str]) -> dict[int, int]:
    """The weight of each version, from arguments such as 12=90. Raises ConfigError, naming the argument."""
    weights = dict[int, int]()
    for argument in arguments:
        match = _WEIGHT.fullmatch(argument)
        if not match:
            raise ConfigError(f"{argument!r} is not a version and its weight, such as 12=90")
        if int(match[1]) in weights:
            raise ConfigError(f"{argument!r}: version {match[1]} has a weight already")
        weights[int(match[1])] = int(match[2])
    return weights


def split_traffic(folder: ModelFolder, weights: Mapping[int, int], *, reason: str = "", force: bool = False) -> Split:
    """Splits requests in proportion to `weights`, once the files of all versions verify; no weights end the split.

    Raises ConfigError (a weight is out of range, or the folder cannot be written), GateRejected (the gate refused one
    of them and `force` is not given), VerificationError, NoSuchModel, NoSuchVersion, LeaseHeld.
    """
    unfit = [version for version in weights if not check_fit(folder, version, force=force)]
    how = how_fit("split by hand", not unfit) if weights else "split ended by hand"
    why = f"{how}: {reason}" if reason else how
    try:
        with intervention(folder) as lease:
            folder.set_traffic(weights, lease=lease, actor=actor(), reason=why)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    aliases = folder.aliases()
    return Split(
        model=folder.name, weights=folder.traffic(), champion=aliases.get(CHAMPION), pinned=aliases.get(PINNED)
    )


def render_split(split: Split) -> Text:
    """One line, and one more while a pin goes before it."""
    champion = "the champion, version " + str(split.champion) if split.champion else "the champion once there is one"
    where = f"split by weight, {render_weights(split.weights)}" if split.weights else f"all go to {champion}"
    line = Text(f"{split.model}: requests: {where}")
    if split.pinned is None:
        return line
    end = f"`rhapsode-train unpin {split.model}` lets them go on"
    return line.append(
        f"\n{split.model}: servers stay on version {split.pinned} meanwhile, which is pinned; {end}", "yellow"
    )

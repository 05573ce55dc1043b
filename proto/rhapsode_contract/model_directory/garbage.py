"""Garbage collection: old versions go to the trash, and from there for good after a time of grace.

The grace lets a server that has just read an alias finish loading the version behind it.
"""

import time
from collections.abc import Collection
from datetime import timedelta

from . import files
from .folders import ModelFolder
from .lease import Lease
from .names import TRASH, trash_name


def collect_garbage(
    folder: ModelFolder, lease: Lease, *, keep: int, grace: timedelta, refused: Collection[int] = ()
) -> list[int]:
    """Moves every version to the trash that has no alias, no weight and is not among the newest `keep`.

    Returns them, ascending. What has been in the trash for `grace` or longer is deleted. Versions that servers
    `refused` do not count among the newest, but the very newest always stays.

    Raises ValueError, CorruptFile, LeaseLost.
    """
    if keep < 1:
        raise ValueError(f"keep: {keep} is not at least 1: the newest version always stays")
    files.make_directory(folder.path / TRASH)
    with lease.guard(folder):
        versions = folder.versions()
        good = [version for version in versions if version not in refused]
        # The newest version also remembers which numbers were given out.
        kept = {*versions[-1:], *good[-keep:], *folder.aliases().values(), *folder.traffic()}
        garbage = [version for version in versions if version not in kept]
        for version in garbage:
            files.move_directory(folder.path / str(version), folder.path / TRASH / trash_name(version))
    _empty_trash(folder, grace)
    return garbage


def _empty_trash(folder: ModelFolder, grace: timedelta) -> None:
    latest = time.time() - grace.total_seconds()
    for version, thrown_away in folder.trash().items():
        if thrown_away <= latest:
            files.remove_tree(folder.path / TRASH / f"{version}-{thrown_away}")

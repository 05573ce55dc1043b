"""Publishing: a folder that the caller fills becomes an immutable, verified version.

    .staging/<run>  ->  fsync every file and folder  ->  MANIFEST.json  ->  rename  ->  fsync the parent
                    ->  verify, load  ->  aliases.json  ->  history.jsonl

A crash anywhere leaves a dead staging folder, or a complete version without an alias: both are harmless.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import files
from .folders import ModelFolder
from .lease import Lease
from .manifest import seal, verify_version
from .names import CHAMPION, STAGING, check_alias


def publish(
    folder: ModelFolder,
    lease: Lease,
    *,
    write: Callable[[Path], None],
    dtype: str,
    parameter_count: int,
    actor: str,
    reason: str,
    load_check: Callable[[Path], None] | None = None,
    alias: str | None = CHAMPION,
) -> int:
    """Publishes what `write` puts into the folder that it is given, and returns the version.

    `load_check` gets the published folder and raises if it cannot be loaded: then the version stays, without an alias.
    `alias` then moves to the version (None: no alias moves), recorded with `actor` and `reason`.

    Raises ValueError (naming a file that has no place in a version, or an argument), LeaseLost, VerificationError, and
    whatever `write` and `load_check` raise.
    """
    if alias is not None:
        check_alias(alias)
    staging = _open_staging(folder, lease)
    try:
        write(staging)
        seal(staging, dtype=dtype, parameter_count=parameter_count)
        version = _move_into_place(folder, lease, staging)
    except Exception:
        lease.check()  # whoever took over has swept our files away: then that is the cause to report
        raise
    finally:
        with suppress(OSError):
            files.remove_tree(staging)
    published = folder.version_path(version)
    verify_version(published)  # the rename is not atomic on every filesystem
    if load_check is not None:
        load_check(published)
    if alias is not None:
        folder.set_alias(alias, version, lease=lease, actor=actor, reason=reason)
    return version


def _open_staging(folder: ModelFolder, lease: Lease) -> Path:
    """A new folder for this run; we hold the lease, so every other one belongs to a dead run."""
    lease.check()
    parent = folder.path / STAGING
    files.make_directory(parent)
    for dead in parent.iterdir():
        with suppress(OSError):  # its owner may be just stopped, and still write there when it wakes up
            files.remove_tree(dead)
    staging = parent / lease.token
    files.make_directory(staging)
    return staging


def _move_into_place(folder: ModelFolder, lease: Lease, staging: Path) -> int:
    with lease.guard(folder):
        version = _next_version(folder)
        files.move_directory(staging, folder.path / str(version))
    return version


def _next_version(folder: ModelFolder) -> int:
    """Above every number that was ever given out, so that a number means one version forever."""
    recorded = [move.get("to") for move in folder.history()]
    seen = [*folder.version_numbers(), *folder.trash(), *folder.aliases().values(), *recorded]
    return 1 + max((number for number in seen if isinstance(number, int)), default=0)

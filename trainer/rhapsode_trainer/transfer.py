"""Models between a model directory and a URL: for clusters that share no volume.

Below the URL lies a model directory like any other. `push` sends the files of a version first, reads them back, and
writes MANIFEST.json last and whole; aliases move once all versions are there. `pull` fetches into .staging, verifies,
renames, and then moves all aliases at once. So whoever reads the target, at any time, finds verified versions only.
After a crash anywhere the next call goes on: a file that arrived whole is not sent again. An existing version is never
replaced. One process at a time may push a model to a URL; pulling takes the lease of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rhapsode_contract.model_directory import (
    Lease,
    ModelDirectory,
    ModelFolder,
    VerificationError,
    files,
    read_manifest,
    verify_version,
)
from rhapsode_contract.model_directory.aliases import write_aliases
from rhapsode_contract.model_directory.history import append_history
from rhapsode_contract.model_directory.names import ALIASES, HISTORY, MANIFEST, STAGING

from .errors import ConfigError
from .publish.actor import actor
from .remote import Remote, TransferError

Check = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What is new at the target: the versions that came, ascending, and the aliases that moved."""

    versions: tuple[int, ...]
    aliases: Mapping[str, int]


def push(models_root: Path, name: str, url: str, *, check: Check = lambda: None) -> Transferred:
    """Sends the versions that `url` lacks, then moves its aliases to where they stand here; other aliases stay.

    `check` is called before each file and may raise. Raises ConfigError (name, URL, no version), TransferError,
    VerificationError (a version here is damaged), CorruptFile.
    """
    folder, remote = _model(models_root, name), Remote.open(url, name)
    aliases = folder.aliases()  # before the versions: whatever an alias names is among them
    versions = folder.versions()
    _require_versions(aliases, versions, name, str(folder.path))
    pushed = [version for version in versions if _push_version(folder.path / str(version), remote, check)]
    before = remote.aliases()
    moved = _moved(before, aliases)
    if moved:
        remote.write_aliases({**before, **moved})
    return Transferred(versions=tuple(pushed), aliases=moved)


def pull(url: str, models_root: Path, name: str, *, check: Check = lambda: None) -> Transferred:
    """Fetches the versions that the aliases at `url` name and those newer than the newest here, then moves the aliases.

    Older ones without an alias are left: what was garbage here does not come back. Raises what `push` raises, and
    LeaseHeld.
    """
    folder, remote = _model(models_root, name), Remote.open(url, name)
    aliases = remote.aliases()
    versions = remote.versions()
    _require_versions(aliases, versions, name, remote.url())
    try:
        with Lease.acquire(folder, owner=actor()) as lease:
            newest = max(folder.versions(), default=0)
            wanted = {*aliases.values(), *(version for version in versions if version > newest)}
            pulled = [version for version in versions if _pull_version(remote, lease, version, wanted, check)]
            moved = _set_aliases(lease, aliases, reason=f"pulled from {remote.url()}")
    except OSError as error:
        raise TransferError(f"{error.filename or folder.path}: {error.strerror or error}") from error
    return Transferred(versions=tuple(pulled), aliases=moved)


def _model(models_root: Path, name: str) -> ModelFolder:
    try:
        return ModelDirectory(models_root).model(name)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from None


def _require_versions(aliases: Mapping[str, int], versions: Sequence[int], name: str, where: str) -> None:
    if not versions:
        raise ConfigError(f"--name: there is no version of {name!r} at {where}")
    for alias, version in aliases.items():
        if version not in versions:
            raise TransferError(f"{where}/{ALIASES}: {alias!r} names version {version}, which is not there")


def _moved(before: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, int]:
    return {alias: version for alias, version in wanted.items() if before.get(alias) != version}


def _push_version(path: Path, remote: Remote, check: Check) -> bool:
    """Whether the version had to be sent."""
    version = path.name
    document = (path / MANIFEST).read_bytes()
    if _is_there(remote.read(f"{version}/{MANIFEST}"), document, remote.url(version)):
        return False
    manifest = verify_version(path)
    for foreign in remote.files(version) - manifest.files.keys():
        remote.remove(f"{version}/{foreign}")
    for file, record in manifest.files.items():
        check()
        remote.upload(path / file, f"{version}/{file}", record)
    check()
    remote.replace(f"{version}/{MANIFEST}", document)
    return True


def _pull_version(remote: Remote, lease: Lease, version: int, wanted: set[int], check: Check) -> bool:
    """Whether the version had to be fetched."""
    folder = lease.folder
    target, staging = folder.path / str(version), folder.path / STAGING / f"pull-{version}"
    here = (target / MANIFEST).read_bytes() if version in folder.versions() else None
    if here is None and version not in wanted:
        return False
    document = remote.read(f"{version}/{MANIFEST}")
    if document is None:
        raise TransferError(f"{remote.url(f'{version}/{MANIFEST}')}: vanished")
    if _is_there(here, document, str(target)):
        return False
    _fetch(remote, version, document, staging, check)
    try:
        with lease.guard(folder):
            files.move_directory(staging, target)
    except FileExistsError:
        raise TransferError(f"{target}: not a version, but in the way of one: remove it and pull again") from None
    return True


def _is_there(found: bytes | None, manifest: bytes, where: str) -> bool:
    if found not in (None, manifest):
        raise TransferError(f"{where}: another version of this number is there, and a version is never replaced")
    return found == manifest


def _fetch(remote: Remote, version: int, document: bytes, staging: Path, check: Check) -> None:
    """Fills and verifies the staging folder; what is right in it from an earlier attempt stays."""
    files.make_directory(staging)
    files.write_file(staging / MANIFEST, document)
    try:
        for file, record in read_manifest(staging).files.items():
            check()
            remote.download(f"{version}/{file}", staging / file, record)
        verify_version(staging)
    except (VerificationError, ValueError) as error:
        files.remove_tree(staging)  # nothing in it would be of use to another attempt
        reason = f"{error.file}: {error.detail}" if isinstance(error, VerificationError) else str(error)
        raise TransferError(f"{remote.url(str(version))} is not a verified version: {reason}") from None
    _make_durable(staging)


def _make_durable(path: Path) -> None:
    names = [PurePosixPath(file) for file, _ in files.walk_files(path)]
    for name in names:
        files.hash_file(path / name, sync=True)
    for folder in sorted({parent for name in names for parent in name.parents}, reverse=True):
        files.sync_directory(path / folder)


def _set_aliases(lease: Lease, aliases: Mapping[str, int], *, reason: str) -> dict[str, int]:
    """Moves them all in one step: a reader sees the old ones or the new ones, never some of each."""
    folder = lease.folder
    with lease.guard(folder):
        before = folder.aliases()
        moved = _moved(before, aliases)
        if moved:
            write_aliases(folder.path / ALIASES, {**before, **moved})
        for alias, version in moved.items():
            append_history(
                folder.path / HISTORY,
                alias=alias,
                from_version=before.get(alias),
                to_version=version,
                actor=actor(),
                reason=reason,
            )
    return moved

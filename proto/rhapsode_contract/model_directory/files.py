"""The file operations of the model directory; what is written is durable when the function returns.

All of them go through the attributes of this module's `os`, so that a test can put a failing disk in its place and
crash at each single operation. A symbolic link in the place of a file is an error, unless it says otherwise: whoever
may write to the directory must not choose files elsewhere.
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

_LOCK_POLL_SECONDS = 0.005
_READABLE_BY_OTHER_USERS = 0o666  # minus the umask: a server often runs as another user than the trainer
_MEBIBYTE = 1 << 20
SMALL_FILE = 16 * _MEBIBYTE


class LockBusyError(OSError):
    """Somebody else holds the lock of a file."""


def make_directory(path: Path) -> None:
    """Creates `path` and its missing parents."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the entries of a folder (not the contents of its files) durable."""
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY, follow_links=True) as descriptor:
        os.fsync(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file; its entry is durable only after a `sync_directory` of the parent."""
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        _write_all(descriptor, data)
        os.fsync(descriptor)


def read_file(path: Path, *, limit: int | None = SMALL_FILE, follow_links: bool = False) -> bytes:
    """The content of a regular file of at most `limit` bytes (None: of any size).

    Raises ValueError, which does not name the file, for anything else: a pipe would block whoever reads it.
    """
    if not follow_links and path.is_symlink():
        raise ValueError("not a regular file: a symbolic link")
    with _opened(path, os.O_RDONLY | os.O_NONBLOCK, follow_links=follow_links) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if limit is not None and status.st_size > limit:
            raise ValueError(f"{status.st_size} bytes, more than {limit // _MEBIBYTE} MiB")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file atomically: a reader sees the old content or the new. One writer at a time."""
    temporary = path.with_name(f"{path.name}.tmp")
    write_file(temporary, data)
    os.replace(temporary, path)
    sync_directory(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Appends one line, over the torn line that a crash may have left at the end. One writer at a time."""
    with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        complete = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(descriptor, complete)
        os.lseek(descriptor, complete, os.SEEK_SET)
        _write_all(descriptor, line + b"\n")
        os.fsync(descriptor)
    sync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)
        sync_directory(path.parent)


def move_directory(source: Path, destination: Path) -> None:
    """Renames a folder within its filesystem; never over something that exists.

    Raises FileExistsError. A non-empty folder is refused by the kernel itself; the look before it refuses an empty one.
    """
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination} exists and is never replaced")
    os.rename(source, destination)
    sync_directory(destination.parent)
    sync_directory(source.parent)


def remove_tree(path: Path) -> None:
    """Removes a folder and everything in it, without following symbolic links."""
    for folder, folders, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(os.path.join(folder, name))
        for child in (os.path.join(folder, name) for name in folders):
            (os.unlink if os.path.islink(child) else os.rmdir)(child)
    os.rmdir(path)


def walk_files(path: Path) -> Iterator[tuple[str, bool]]:
    """Everything below `path` that is not a folder, sorted: (name relative to `path`, whether it is a regular file)."""
    yield from _walk(path, PurePosixPath())


def _walk(path: Path, relative: PurePosixPath) -> Iterator[tuple[str, bool]]:
    with os.scandir(path) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        name = relative / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path / entry.name, name)
        else:
            yield str(name), entry.is_file(follow_symlinks=False)


def hash_file(path: Path, *, sync: bool = False) -> tuple[str, int]:
    """The sha256 (hexadecimal) and the size in bytes of a regular file, which `sync` also makes durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if sync:
            os.fsync(descriptor)
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


@contextmanager
def locked(path: Path, *, wait: float) -> Iterator[int]:
    """Holds the exclusive lock of a file, made if need be, and yields its descriptor (read and write).

    The kernel frees the lock when the process dies. Raises LockBusyError when it is not free within `wait` seconds.
    """
    with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        _lock(descriptor, path, wait)
        try:
            yield descriptor
        finally:
            # Closing alone would not free it while a child forked in between still has the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def read_locked(descriptor: int) -> bytes:
    """The content of a small file held by `locked`."""
    return os.pread(descriptor, 1 << 16, 0)


def write_locked(descriptor: int, data: bytes) -> None:
    """Replaces the content of a small file held by `locked`, in place and not durably."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    _write_all(descriptor, data)


def _lock(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockBusyError(f"{path} is still locked after {wait:g} s") from None
            time.sleep(_LOCK_POLL_SECONDS)
        except OSError as error:
            raise OSError(error.errno, f"this filesystem cannot lock files: {error.strerror}", str(path)) from error


def _write_all(descriptor: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


@contextmanager
def _opened(path: Path, flags: int, *, follow_links: bool = False) -> Iterator[int]:
    descriptor = os.open(path, flags | (0 if follow_links else os.O_NOFOLLOW), _READABLE_BY_OTHER_USERS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

"""What files say, read again when they change. A broken change leaves what was read before."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger("rhapsode.rpc")

T = TypeVar("T")

_Stamp = tuple[int, int, int] | None


class Reloading(Generic[T]):
    """`read` makes the value; it raises ValueError where the files are missing or broken.

    Threads may share it. Looking for a change takes a `stat` of each file, and is done at every use: what has been
    revoked does not hold a moment longer.
    """

    def __init__(self, flag: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """`flag` names the files in the log. Raises ValueError."""
        self._flag = flag
        self._paths = paths
        self._read = read
        # Before the reading: a change that comes in between is seen at the next look.
        self._seen = self._stamps()
        self._value = read()

    @property
    def value(self) -> T:
        """What the files say now, or said when they could last be read."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            self._reload()
        return self._value

    def _reload(self) -> None:
        try:
            self._value = self._read()
        except ValueError as error:
            logger.error("%s has changed and cannot be used, what it was before still holds: %s", self._flag, error)
        else:
            logger.info("%s has changed and holds", self._flag)

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> _Stamp:
    """None: there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino

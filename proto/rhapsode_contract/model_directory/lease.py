"""The lease of a model: one publisher at a time, and none that has slept past its turn.

`.lease` holds the token of the holder, the time of its last heartbeat and the time to live. It is read and written only
under the file's own lock (flock), which nobody holds for longer than one step: so of many who find a stale lease
exactly one takes it over. The file is written in place and never removed, because a lock belongs to a file and not to
a name; a content that cannot be understood is that of a writer who died while writing, and counts as free.

The holder does its decisive steps inside `guard`, which checks the token and keeps the lock until the step is done:
nobody can take over between the check and the rename. A publisher stopped inside the guard therefore keeps others out
until it runs on or dies; a publisher stopped anywhere else finds its token gone. Clocks that disagree between machines
can only make a lease change hands too early, which its old holder notices in the same way.

What remains: a mount on which machines do not see each other's locks (NFS with `nolock`, some FUSE filesystems). There
a takeover can fall between check and rename, and two publishers may both publish. Even then an existing version is
never replaced and every version verifies; an alias stays where the later of the two put it.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType

from . import files
from .errors import LeaseHeld, LeaseLost
from .folders import ModelFolder
from .names import LEASE

LOCK_WAIT_SECONDS = 5.0
POLL_SECONDS = 0.2
BEATS_IN_A_LIFE = 12
"""Heartbeats in the time to live: some may fail, and one soon shows whether a holder lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """The content of `.lease`: Unix time and seconds."""

    token: str
    owner: str
    renewed: float
    ttl: float

    def live(self) -> bool:
        """A heartbeat far in the future is a clock gone wrong and must not block the model until then."""
        return abs(time.time() - self.renewed) < self.ttl

    def __str__(self) -> str:
        age = time.time() - self.renewed
        return f"{self.owner} (last heartbeat {age:.0f} s ago; the lease runs out {self.ttl:g} s after the last)"


class Lease:
    """The right to publish a model, kept alive by a daemon thread. Use it as a context manager."""

    def __init__(self, folder: ModelFolder, *, owner: str, ttl: float) -> None:
        """Not for callers: `acquire` takes the lease."""
        self.folder = folder
        self.token = secrets.token_hex(16)
        self._owner = owner
        self._ttl = ttl
        self._released = threading.Event()
        self._path = folder.path / LEASE

    @classmethod
    def acquire(cls, folder: ModelFolder, *, owner: str, ttl: float = 60.0) -> Lease:
        """Takes the lease, or takes over one without a heartbeat for `ttl` seconds (its holder's). Raises LeaseHeld."""
        if not 0 < ttl < math.inf:
            raise ValueError(f"ttl: {ttl!r} is not a positive number of seconds")
        files.make_directory(folder.path)
        lease = cls(folder, owner=owner, ttl=ttl)
        try:
            with files.locked(lease._path, wait=LOCK_WAIT_SECONDS) as descriptor:
                holder = _read(descriptor)
                if holder is not None and holder.live():
                    raise LeaseHeld(
                        f"{folder.name} is being published by {holder}", heartbeat=(holder.token, holder.renewed)
                    )
                lease._write(descriptor)
        except files.LockBusyError as error:
            raise LeaseHeld(f"{folder.name} is being published by somebody in the middle of a step: {error}") from error
        threading.Thread(target=lease._beat, name=f"lease of {folder.name}", daemon=True).start()
        return lease

    @classmethod
    def acquire_or_outlive(
        cls, folder: ModelFolder, *, owner: str, ttl: float = 60.0, check: Callable[[], None] = lambda: None
    ) -> Lease:
        """As `acquire`, but a holder must show that it lives: one that was killed leaves a lease that looks taken.

        Raises LeaseHeld after the holder's next heartbeat; without one takes the lease over when it runs out.
        `check` is called while waiting and may raise.
        """
        first: LeaseHeld | None = None
        while True:
            try:
                return cls.acquire(folder, owner=owner, ttl=ttl)
            except LeaseHeld as held:
                first = first or held
                if held.heartbeat is None or held.heartbeat != first.heartbeat:
                    raise
            check()
            time.sleep(POLL_SECONDS)

    @contextmanager
    def guard(self, folder: ModelFolder) -> Iterator[None]:
        """Raises LeaseLost, or keeps everybody else from taking over until the block is done. Keep the block short."""
        assert folder == self.folder, "a lease guards only its own model"
        try:
            with self._held():
                yield
        except files.LockBusyError as error:
            raise LeaseLost(f"the lease of {self.folder.name} cannot be confirmed: {error}") from error

    def check(self) -> None:
        """Raises LeaseLost if the lease ran out or is no longer ours."""
        with self.guard(self.folder):
            pass

    def release(self) -> None:
        """Frees the lease if it is still ours."""
        self._released.set()
        try:
            with self._held() as descriptor:
                files.write_locked(descriptor, b"")
        except (LeaseLost, OSError):
            pass  # whoever cannot free it lets it run out

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    @contextmanager
    def _held(self) -> Iterator[int]:
        with files.locked(self._path, wait=LOCK_WAIT_SECONDS) as descriptor:
            holder = _read(descriptor)
            if holder is None or holder.token != self.token:
                how = f"taken over by {holder.owner}" if holder else "freed by somebody else"
                raise LeaseLost(f"the lease of {self.folder.name} was {how}")
            if not holder.live():
                raise LeaseLost(f"the lease of {self.folder.name} ran out: no heartbeat for {self._ttl:g} s")
            yield descriptor

    def _write(self, descriptor: int) -> None:
        entry = _Entry(token=self.token, owner=self._owner, renewed=time.time(), ttl=self._ttl)
        files.write_locked(descriptor, json.dumps(asdict(entry)).encode())

    def _beat(self) -> None:
        while not self._released.wait(self._ttl / BEATS_IN_A_LIFE):
            try:
                with self._held() as descriptor:
                    self._write(descriptor)
            except LeaseLost:
                return  # an expired lease is never renewed: the next check must see it
            except OSError:
                continue  # a busy lock or a hiccup of the disk; if it lasts, the lease runs out


@dataclass(frozen=True, slots=True)
class Intervention:
    """The right of a person to single steps, whoever holds the lease: a rollback cannot wait for a run to end.

    A step still excludes every other one, so that the holder of the lease finds the model whole before and after it.
    """

    @contextmanager
    def guard(self, folder: ModelFolder) -> Iterator[None]:
        """Keeps everybody else from a step until the block is done. Raises LeaseHeld."""
        try:
            with files.locked(folder.path / LEASE, wait=LOCK_WAIT_SECONDS):
                yield
        except files.LockBusyError as error:
            raise LeaseHeld(f"{folder.name}: somebody is in the middle of a step: {error}") from error


def _read(descriptor: int) -> _Entry | None:
    try:
        entry = json.loads(files.read_locked(descriptor))
        return _Entry(
            token=str(entry["token"]),
            owner=str(entry["owner"]),
            renewed=float(entry["renewed"]),
            ttl=float(entry["ttl"]),
        )
    except (ValueError, TypeError, KeyError):
        return None

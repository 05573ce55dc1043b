"""Where workers run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rhapsode_server.engine.host_processors import available_cores


@dataclass(frozen=True, slots=True)
class Device:
    """As torch names it; `threads` of the CPU, 0: one for each core."""

    name: str
    threads: int


@dataclass(slots=True)
class DevicePool:
    """Spreads workers over devices, each of them `cpu:THREADS` or as torch names it.

    Without a number of threads (0) the `replicas` of a version that share a device share its cores.
    """

    names: tuple[str, ...]
    threads: int
    replicas: int = 1
    clock: Callable[[], float] = time.monotonic
    _num_workers: list[int] = field(init=False)
    _num_ready: list[int] = field(init=False)
    _hung_since: dict[int, float] = field(default_factory=dict)  # by index

    def __post_init__(self) -> None:
        self._num_workers = [0] * len(self.names)
        self._num_ready = [0] * len(self.names)

    def take(self) -> "Place":
        """The device with the fewest workers."""
        index = min(range(len(self.names)), key=self._num_workers.__getitem__)
        self._num_workers[index] += 1
        return Place(self._device(self.names[index]), self, index)

    def _device(self, name: str) -> Device:
        kind, _, number = name.partition(":")
        if kind == "cpu" and number:
            return Device("cpu", int(number))
        return Device(name, self.threads or self._share(name))

    def _share(self, name: str) -> int:
        """Of the cores, for one of the workers that serve side by side; others, that load or wait, compute little."""
        num_workers = -(-self.replicas * self.names.count(name) // len(self.names))
        return 0 if num_workers == 1 else max(1, available_cores() // num_workers)

    def give_back(self, index: int) -> None:
        self._num_workers[index] -= 1

    def note_ready(self, index: int) -> None:
        self._num_ready[index] += 1
        self._hung_since.pop(index, None)

    def note_end(self, index: int, *, is_hung: bool) -> None:
        self._num_ready[index] -= 1
        if is_hung and not self._num_ready[index]:
            self._hung_since[index] = self.clock()

    def hung_for(self, seconds: float) -> tuple[str, ...]:
        """The devices on which the last worker that was ready hung, so long ago, and on which none has become ready
        since."""
        limit = self.clock() - seconds
        return tuple(self.names[index] for index, since in sorted(self._hung_since.items()) if since <= limit)


@dataclass(slots=True, eq=False)
class Place:
    """A device that a worker has, until it is given back."""

    device: Device
    _pool: DevicePool
    _index: int

    def give_back(self) -> None:
        self._pool.give_back(self._index)

    def note_ready(self) -> None:
        """A worker is ready there."""
        self._pool.note_ready(self._index)

    def note_end(self, *, is_hung: bool) -> None:
        """A worker that was ready there has ended, or hangs."""
        self._pool.note_end(self._index, is_hung=is_hung)

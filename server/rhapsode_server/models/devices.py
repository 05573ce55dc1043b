"""Where workers run."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Device:
    """As torch names it; `threads` of the CPU, 0: all."""

    name: str
    threads: int


@dataclass(slots=True)
class DevicePool:
    """Spreads workers over devices, each of them `cpu:THREADS` or as torch names it."""

    names: tuple[str, ...]
    threads: int
    _num_workers: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._num_workers = [0] * len(self.names)

    def take(self) -> "Place":
        """The device with the fewest workers."""
        index = min(range(len(self.names)), key=self._num_workers.__getitem__)
        self._num_workers[index] += 1
        return Place(self._device(self.names[index]), self, index)

    def _device(self, name: str) -> Device:
        kind, _, number = name.partition(":")
        return Device("cpu", int(number)) if kind == "cpu" and number else Device(name, self.threads)

    def give_back(self, index: int) -> None:
        self._num_workers[index] -= 1


@dataclass(slots=True, eq=False)
class Place:
    """A device that a worker has, until it is given back."""

    device: Device
    _pool: DevicePool
    _index: int

    def give_back(self) -> None:
        self._pool.give_back(self._index)

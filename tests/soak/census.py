"""What a server's processes hold of the machine while nobody calls it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from support.processes import descendants, num_descriptors, num_threads, resident_mib
from support.servers import ServerProcess


@dataclass(frozen=True, slots=True)
class Held:
    """By one process."""

    mib: float
    descriptors: int
    threads: int

    @classmethod
    def by(cls, pid: int) -> "Held":
        return cls(resident_mib(pid), num_descriptors(pid), num_threads(pid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """`steady` worker: the one that is neither killed nor replaced. `others` come and go: what they hold together."""

    front_end: Held
    steady: Held
    others_mib: float
    num_processes: int

    @classmethod
    def take(cls, server: ServerProcess, steady: int) -> "Census":
        others = [pid for pid in descendants(server.process.pid) if pid != steady]
        return cls(
            front_end=Held.by(server.process.pid),
            steady=Held.by(steady),
            others_mib=sum(map(resident_mib, others)),
            num_processes=len(others) + 2,
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Processes, and descriptors of each. Threads are kept in pools, which fill and empty by themselves."""
        return self.num_processes, self.front_end.descriptors, self.steady.descriptors

    @property
    def num_threads(self) -> int:
        return self.front_end.threads + self.steady.threads


def growth(mib: Sequence[float]) -> float:
    """From the first quarter of a series to its last, as a part of the first."""
    quarter = max(1, len(mib) // 4)
    before = mean(mib[:quarter])
    return (mean(mib[-quarter:]) - before) / before

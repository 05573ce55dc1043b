"""Closed loops: every system at every number of callers, in turns, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.serving.figures import Measured, percentile
from benchmarks.serving.processes import Host
from benchmarks.serving.recorder import Plan
from benchmarks.serving.systems import Kind, UnavailableError
from benchmarks.serving.workload import Request

WARM_UP_TOKENS = 8
# Before the window: while the first prompts of many callers were computed, others came, and they have to be done first.
WARM_UP_SECONDS_PER_CALLER = 1 / 16


@dataclass(slots=True)
class Cell:
    """A system at a number of callers, once a round. Rates are medians of rounds; times of all rounds are pooled."""

    kind: Kind
    callers: int
    runs: list[Measured] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(run.tokens_per_second for run in self.runs)

    @property
    def cpu_seconds_per_1000_tokens(self) -> float:
        return statistics.median(1000 * run.cost.cpu_seconds / max(1, run.num_tokens) for run in self.runs)

    @property
    def client_cpu_share(self) -> float:
        """Of one core."""
        return statistics.median(run.cost.client_cpu_seconds / run.seconds for run in self.runs)

    @property
    def peak_bytes(self) -> int:
        return max(run.cost.peak_bytes for run in self.runs)

    @property
    def largest_peak_bytes(self) -> int:
        return max(run.cost.largest_peak_bytes for run in self.runs)

    def first_token_seconds(self, share: float) -> float | None:
        return percentile([seconds for run in self.runs for seconds in run.first_token_seconds], share)

    def gap_seconds(self, share: float) -> float | None:
        return percentile([gap for run in self.runs for gap in run.gaps], share)


Cells = dict[tuple[str, int], Cell]


def warm_up(hosts: dict[Kind, Host], requests: Sequence[Request], absent: dict[str, str]) -> None:
    """A few tokens at the most callers."""
    for kind in list(hosts):
        callers = kind.callers[-1]
        short = tuple(replace(request, num_tokens=WARM_UP_TOKENS) for request in requests[:callers])
        run_or_drop(hosts, kind, Plan(requests=short, callers=callers), absent)


def measure(
    hosts: dict[Kind, Host],
    requests: Sequence[Request],
    *,
    rounds: int,
    seconds: float,
    deadline: float,
    absent: dict[str, str],
) -> Cells:
    """Rounds after the first end at the deadline, in `time.monotonic()` seconds."""
    cells: Cells = {}
    for turn in range(rounds):
        for callers in sorted({callers for kind in hosts for callers in kind.callers}):
            for kind in [kind for kind in hosts if callers in kind.callers]:
                if turn and time.monotonic() > deadline:
                    return cells
                warm_up = callers * WARM_UP_SECONDS_PER_CALLER
                plan = Plan(requests=tuple(requests), callers=callers, seconds=seconds, warm_up=warm_up, turn=turn)
                if (run := run_or_drop(hosts, kind, plan, absent)) is None:
                    continue
                cell = cells.setdefault((kind.title, callers), Cell(kind, callers))
                cell.runs.append(run)
                print(progress(turn, cell), flush=True)
    return cells


def run_or_drop(hosts: dict[Kind, Host], kind: Kind, plan: Plan, absent: dict[str, str]) -> Measured | None:
    """A system that fails takes no further part."""
    try:
        return hosts[kind].run(plan)
    except UnavailableError as error:
        absent[kind.title] = str(error)
        del hosts[kind]
        print(f"{kind.title} takes no further part: {error}", flush=True)
        return None


def progress(turn: int, cell: Cell) -> str:
    rate = cell.runs[-1].tokens_per_second
    return f"round {turn + 1}, {cell.callers:3} callers  {cell.kind.title:40} {rate:9.1f} tokens/s"


def ratio(cells: Mapping[tuple[str, int], Cell], ours: str, theirs: str, callers: int) -> float | None:
    """Of tokens/s; None where one of them was not measured."""
    if (ours, callers) not in cells or (theirs, callers) not in cells:
        return None
    return cells[ours, callers].tokens_per_second / cells[theirs, callers].tokens_per_second

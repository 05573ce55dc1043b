"""What the scheduler costs: microseconds of Python for a decode step, by the number of sequences that run.

A runner that computes nothing gives every row the same token. Usage: python benchmarks/scheduler.py [--rounds N]
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from rhapsode_server.engine.batch import Batch, BatchResult
from rhapsode_server.engine.block_pool import BlockPool
from rhapsode_server.engine.request import EngineRequest
from rhapsode_server.engine.scheduler import Scheduler

RESULTS = Path(__file__).parent / "results"
ROWS = (1, 16, 64, 256)
PROMPT_LENGTH, NUM_STEPS = 100, 200


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the steps of a round, of which the least counts: what else the machine does only adds."""

    schedule: float
    update: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the fastest counts (default: 5)")
    rounds = parser.parse_args().rounds
    costs = {
        rows: min((measure(rows) for _ in range(rounds)), key=lambda cost: cost.schedule + cost.update) for rows in ROWS
    }
    report(costs)


def measure(num_rows: int) -> Cost:
    """Microseconds."""
    scheduler = Scheduler(
        pool=BlockPool(num_blocks=num_rows * 64, block_size=16),
        max_sequences=num_rows,
        max_batch_tokens=num_rows * PROMPT_LENGTH,
    )
    for request_id in range(num_rows):
        prompt_ids = (request_id, *range(PROMPT_LENGTH - 1))
        request = EngineRequest(
            request_id=request_id, prompt_ids=prompt_ids, max_new_tokens=NUM_STEPS + 2, stop_token_ids=frozenset({0})
        )
        scheduler.submit(request)
    schedule, update = list[float](), list[float]()
    for _ in range(NUM_STEPS + 1):
        began = time.perf_counter()
        batch = scheduler.schedule()
        scheduled = time.perf_counter()
        scheduler.update(batch, tokens_of(batch))
        scheduler.take_news()
        schedule.append(scheduled - began)
        update.append(time.perf_counter() - scheduled)
    assert len(batch.rows) == num_rows
    # The first step has the prompts.
    return Cost(schedule=statistics.median(schedule[1:]) * 1e6, update=statistics.median(update[1:]) * 1e6)


def tokens_of(batch: Batch) -> BatchResult:
    return BatchResult(token_ids=[5] * len(batch.rows))


def report(costs: dict[int, Cost]) -> None:
    lines = ["| rows | schedule, us | update, us | a row, us |", "|---|---|---|---|"]
    for rows, cost in costs.items():
        total = cost.schedule + cost.update
        lines.append(f"| {rows} | {cost.schedule:.0f} | {cost.update:.0f} | {total / rows:.2f} |")
    text = "A decode step without the model\n\n" + "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scheduler.md").write_text(text)
    figures = {str(rows): {"schedule": cost.schedule, "update": cost.update} for rows, cost in costs.items()}
    (RESULTS / "scheduler.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()

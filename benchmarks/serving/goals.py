"""The goals of the project that this benchmark can tell, each with what was reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.serving.closed import ratio
from benchmarks.serving.limits import Load
from benchmarks.serving.profiles import CONTINUOUS, CTRANSLATE2, ENGINE, SERVER
from benchmarks.serving.run import Results

MEBIBYTE = 2**20
CPU_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`reached` is None where it was not measured. At least `bound`, or at most."""

    what: str
    bound: float
    reached: float | None
    at_most: bool = False

    @property
    def is_met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached <= self.bound if self.at_most else self.reached >= self.bound


def goals(results: Results) -> list[Goal]:
    return [*(cuda_goals(results) if results.options.device == "cuda" else cpu_goals(results)), *common_goals(results)]


def cpu_goals(results: Results) -> Iterator[Goal]:
    cells, exact, small = results.cells, f"{SERVER} float32", f"{SERVER} int8"
    against = [
        (exact, f"{CONTINUOUS} float32", 2.0),
        (exact, f"{CTRANSLATE2} float32", 1.5),
        (small, f"{CTRANSLATE2} int8", 1.3),
    ]
    for ours, theirs, bound in against:
        reached = ratio(cells, ours, theirs, CPU_ROWS)
        yield Goal(what=f"tokens/s of {ours} over {theirs}, {CPU_ROWS} callers", bound=bound, reached=reached)
    yield from growth(results, (exact, small))
    yield from steadiness(results, (exact, small))
    for step in results.attention:
        what = f"decode attention over a read of its keys and values, {step.rows} rows, context {step.context}"
        yield Goal(what=what, bound=1.5, reached=step.seconds / step.read_seconds, at_most=True)
    yield Goal(
        what="decode step at 1 caller over a read of the weights, float32",
        bound=1.15,
        reached=one_caller(results, exact),
        at_most=True,
    )
    for title, precision in ((exact, "float32"), (small, "int8")):
        what = f"peak MB of the worker beyond weights and KV, {title}"
        yield Goal(what=what, bound=600, reached=beyond_weights(results, title, precision), at_most=True)


def cuda_goals(results: Results) -> Iterator[Goal]:
    title, cells = f"{SERVER} bfloat16", results.cells
    for callers, bound in ((1, 2_000.0), (256, 150_000.0)):
        reached = cells[title, callers].tokens_per_second if (title, callers) in cells else None
        yield Goal(what=f"tokens/s through gRPC, {callers} callers", bound=bound, reached=reached)
    bounds = {64: 350.0, 256: 700.0}
    for step in results.steps.get("bfloat16", []):
        if step.rows in bounds:
            what = f"decode step in us, {step.rows} rows"
            yield Goal(what=what, bound=bounds[step.rows], reached=1e6 * step.seconds, at_most=True)


def common_goals(results: Results) -> Iterator[Goal]:
    for precision in results.profile.precisions:
        ours, alone = f"{SERVER} {precision}", f"{ENGINE} {precision}"
        reached, callers = ratio(results.cells, ours, alone, results.profile.wire_callers), results.profile.wire_callers
        what = f"tokens/s through gRPC over the engine alone, {precision}, {callers} callers"
        yield Goal(what=what, bound=0.95, reached=reached)
    prefix = results.prefix
    yield Goal(
        what="time to first token behind a new preamble over that behind a known one",
        bound=5.0,
        reached=prefix.cold_seconds / prefix.hit_seconds if prefix else None,
    )


def growth(results: Results, titles: tuple[str, ...]) -> Iterator[Goal]:
    for title in titles:
        rates = [(n, cell.tokens_per_second) for (each, n), cell in sorted(results.cells.items()) if each == title]
        steps = [later / earlier for (_, earlier), (_, later) in pairwise(rates)]
        what = f"least growth of tokens/s from one number of callers to the next, {title}"
        yield Goal(what=what, bound=1.0, reached=min(steps, default=None))


def steadiness(results: Results, titles: tuple[str, ...]) -> Iterator[Goal]:
    for title in titles:
        cell = results.cells.get((title, CPU_ROWS))
        median, slow = (cell.gap_seconds(0.5), cell.gap_seconds(0.99)) if cell else (None, None)
        what = f"inter-token p99 over p50 while prompts arrive, {title}, {CPU_ROWS} callers"
        yield Goal(what=what, bound=3.0, reached=slow / median if slow and median else None, at_most=True)


def one_caller(results: Results, title: str) -> float | None:
    """The gap between two tokens as a caller sees it."""
    cell = results.cells.get((title, 1))
    gap = cell.gap_seconds(0.5) if cell else None
    alone = Load(context=results.load.context, prompt_tokens_per_token=0)
    return gap and gap / results.limits.memory_seconds(results.shape, alone, 1, "float32")


def beyond_weights(results: Results, title: str, precision: str) -> float | None:
    """KV is what the rows of the largest loop hold: completions as long as they get."""
    cells = [cell for (each, _), cell in results.cells.items() if each == title]
    if not cells:
        return None
    cell = max(cells, key=lambda each: each.callers)
    kv_bytes = cell.callers * results.load.context * results.shape.kv_bytes_per_token(precision)
    return (cell.largest_peak_bytes - results.shape.resident_weight_bytes(precision) - kv_bytes) / MEBIBYTE

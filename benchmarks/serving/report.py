"""Results as JSON and as Markdown. No figure of ours stands without the peers' beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.serving.closed import Cell
from benchmarks.serving.figures import percentile
from benchmarks.serving.goals import goals
from benchmarks.serving.limits import BYTES_PER_WEIGHT
from benchmarks.serving.profiles import CONTINUOUS, SERVER
from benchmarks.serving.run import Results

MEGABYTE = 2**20
RUN_ON_A_CPU = "All of it was run on a CPU: no CUDA device was at hand, and so no figure of one is given."


def as_json(results: Results) -> dict[str, Any]:
    return {
        "machine": results.machine,
        "options": {name: str(value) for name, value in asdict(results.options).items()},
        "limits": asdict(results.limits),
        "load": asdict(results.load),
        "start_seconds": results.start_seconds,
        "absent": results.absent,
        "closed": [closed_row(results, cell) for cell in results.cells.values()],
        "open": [open_row(title, loop) for title, loops in results.open_loops.items() for loop in loops],
        "prefix": results.prefix and asdict(results.prefix),
        "steps": {name: [asdict(step) for step in steps] for name, steps in results.steps.items()},
        "attention": [asdict(step) for step in results.attention],
        "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in goals(results)],
    }


def closed_row(results: Results, cell: Cell) -> dict[str, Any]:
    peer = results.cells.get((peer_title(results), cell.callers))
    return {
        "system": cell.kind.title,
        "callers": cell.callers,
        "tokens_per_second": cell.tokens_per_second,
        "rounds": [run.tokens_per_second for run in cell.runs],
        "over_continuous_batching": cell.tokens_per_second / peer.tokens_per_second if peer else None,
        "over_limit": cell.tokens_per_second / limit(results, cell),
        "first_token_p50": cell.first_token_seconds(0.5),
        "first_token_p99": cell.first_token_seconds(0.99),
        "gap_p50": cell.gap_seconds(0.5),
        "gap_p99": cell.gap_seconds(0.99),
        "peak_bytes": cell.peak_bytes,
        "largest_peak_bytes": cell.largest_peak_bytes,
        "cpu_seconds_per_1000_tokens": cell.cpu_seconds_per_1000_tokens,
        "client_cpu_share": cell.client_cpu_share,
    }


def peer_title(results: Results) -> str:
    return f"{CONTINUOUS} {results.profile.precisions[0]}"


def limit(results: Results, cell: Cell) -> float:
    """Tokens/s that no system could exceed with these numbers."""
    seconds = results.limits.step_seconds(results.shape, results.load, cell.callers, cell.kind.precision)
    return cell.callers / seconds


def open_row(title: str, loop: Any) -> dict[str, Any]:
    run = loop.measured
    return {
        "system": title,
        "share": loop.share,
        "requests_per_second": loop.requests_per_second,
        "tokens_per_second": run.tokens_per_second,
        "first_token_p50": percentile(run.first_token_seconds, 0.5),
        "first_token_p99": percentile(run.first_token_seconds, 0.99),
        "gap_p50": percentile(run.gaps, 0.5),
        "gap_p99": percentile(run.gaps, 0.99),
    }


Column = tuple[str, Callable[[dict[str, Any]], str]]


def number(name: str, scale: float = 1.0, digits: int = 0) -> Callable[[dict[str, Any]], str]:
    """The value of a column; n/a where there is none."""
    return lambda row: "n/a" if row[name] is None else f"{row[name] * scale:,.{digits}f}"


TIMES: tuple[Column, ...] = (
    ("first token p50, ms", number("first_token_p50", 1e3)),
    ("p99", number("first_token_p99", 1e3)),
    ("inter-token p50, ms", number("gap_p50", 1e3, 1)),
    ("p99", number("gap_p99", 1e3, 1)),
)
CLOSED: tuple[Column, ...] = (
    ("callers", number("callers")),
    ("system", lambda row: row["system"]),
    ("tokens/s", number("tokens_per_second", digits=1)),
    ("over continuous batching", number("over_continuous_batching", digits=2)),
    ("of the limit", number("over_limit", digits=2)),
    *TIMES,
    ("peak MB", number("peak_bytes", 1 / MEGABYTE)),
    ("CPU s / 1,000 tokens", number("cpu_seconds_per_1000_tokens", digits=2)),
    ("client's cores", number("client_cpu_share", digits=2)),
)
OPEN: tuple[Column, ...] = (
    ("system", lambda row: row["system"]),
    ("of its capacity", lambda row: f"{row['share']:.0%}"),
    ("requests/s", number("requests_per_second", digits=2)),
    ("tokens/s", number("tokens_per_second", digits=1)),
    *TIMES,
)
GOALS: tuple[Column, ...] = (
    ("goal", lambda row: row["what"]),
    ("bound", lambda row: f"{'at most' if row['at_most'] else 'at least'} {row['bound']:g}"),
    ("reached", number("reached", digits=2)),
    ("", lambda row: {True: "met", False: "missed", None: "not measured"}[row["is_met"]]),
)
STEPS: tuple[Column, ...] = (
    ("precision", lambda row: row["precision"]),
    ("rows", number("rows")),
    ("context", number("context")),
    ("decode step, ms", number("seconds", 1e3, 3)),
    ("over the limit", number("over_limit", digits=2)),
    ("kernels", number("kernels")),
)
ATTENTION: tuple[Column, ...] = (
    ("rows", number("rows")),
    ("context", number("context")),
    ("attention, ms a step", number("seconds", 1e3, 2)),
    ("row by row", number("row_by_row_seconds", 1e3, 2)),
    ("a read of its keys and values", number("read_seconds", 1e3, 2)),
)


def table(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(name for name, _ in columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell(row) for _, cell in columns)} |" for row in rows]
    return "\n".join(lines)


def as_markdown(results: Results) -> str:
    return "\n\n".join(paragraphs(results, as_json(results))) + "\n"


def paragraphs(results: Results, found: dict[str, Any]) -> Iterator[str]:
    yield f"# Serving GPT-2 124M on {results.machine['processor']}"
    yield machine_line(results)
    yield limits_line(results)
    yield "## Closed loops\n\n" + table(CLOSED, sorted(found["closed"], key=lambda row: row["callers"]))
    if found["absent"]:
        yield "Not measured:\n\n" + "\n".join(f"- {title}: {why}" for title, why in found["absent"].items())
    if found["open"]:
        yield "## Poisson arrivals\n\n" + table(OPEN, found["open"])
    if results.prefix:
        yield "## A shared preamble\n\n" + prefix_line(results)
    if results.steps:
        yield "## Steps of the engine\n\n" + table(STEPS, step_rows(results))
    if results.attention:
        yield table(ATTENTION, found["attention"])
    yield "## Goals\n\n" + table(GOALS, found["goals"])
    if results.options.device == "cpu":
        yield RUN_ON_A_CPU


def machine_line(results: Results) -> str:
    machine, options = results.machine, results.options
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    tiny = "A tiny model: its figures mean nothing. " if options.tiny else ""
    return (
        f"{tiny}{machine['cores']} cores, device {machine['device']}, {machine['system']}; {packages}. "
        f"{options.rounds} rounds of {options.seconds:g} s at most, {machine['minutes']:.1f} minutes in all; "
        f"load average {machine['load_average_at_start']:.1f} when it began."
    )


def limits_line(results: Results) -> str:
    limits, load = results.limits, results.load
    read = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in limits.read.items())
    matmul = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in limits.matmul.items())
    weights = ", ".join(
        f"{results.shape.weight_bytes(name) / 1e6:.0f} MB as {name}" for name in limits.read if name in BYTES_PER_WEIGHT
    )
    return (
        f"Measured in this run: copies {limits.copy / 1e9:.1f} GB/s; "
        f"reading as many bytes as the weights have, {read}; products of large matrices, Gop/s: {matmul}. "
        f"A decode step reads {weights}, and keys and values of "
        f"{load.context:.0f} tokens a row; each token comes with {load.prompt_tokens_per_token:.2f} tokens of prompts. "
        "The limit is what memory or arithmetic alone would take, whichever is more."
    )


def prefix_line(results: Results) -> str:
    prefix = results.prefix
    assert prefix is not None
    return (
        f"Behind a preamble of {prefix.preamble} tokens the first token took {1e3 * prefix.cold_seconds:.0f} ms where "
        f"the preamble was new and {1e3 * prefix.hit_seconds:.0f} ms where another request had brought it "
        f"({prefix.cold_seconds / prefix.hit_seconds:.1f} times less); {prefix.hit_rate:.0%} of the prompt tokens came "
        f"from the cache. Server: {SERVER} {results.profile.precisions[0]}, one caller."
    )


def step_rows(results: Results) -> list[dict[str, Any]]:
    return [
        asdict(step) | {"precision": precision, "over_limit": step.seconds / step_limit(results, precision, step)}
        for precision, steps in results.steps.items()
        for step in steps
    ]


def step_limit(results: Results, precision: str, step: Any) -> float:
    load = type(results.load)(context=step.context, prompt_tokens_per_token=0)
    return results.limits.step_seconds(results.shape, load, step.rows, precision)

"""Markdown tables of results in benchmarks/results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

OURS = "rhapsode"
COMPARED = 16  # callers
MILLI = 1e3


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is of words, the others of figures."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def milliseconds(seconds: float) -> str:
    return f"{seconds * MILLI:,.0f}" if seconds >= 0.1 else f"{seconds * MILLI:.1f}"


def systems(closed: Sequence[Result]) -> list[str]:
    """In their order."""
    return list(dict.fromkeys(row["system"] for row in closed))


def throughput(closed: Sequence[Result]) -> str:
    """Tokens/s of every system at every number of callers."""
    callers = sorted({row["callers"] for row in closed})
    found = {(row["system"], row["callers"]): f"{row['tokens_per_second']:.1f}" for row in closed}
    head = ["tokens/s", *(f"{number} caller{'s' if number > 1 else ''}" for number in callers)]
    return table(
        head, ([_name(each), *(found.get((each, number), "") for number in callers)] for each in systems(closed))
    )


def latency(closed: Sequence[Result]) -> str:
    """Of every system at as many callers as goals are about."""
    head = ["system", "first token p50, ms", "p99", "between tokens p50, ms", "p99", "peak MB", "CPU s / 1,000 tokens"]
    rows = [row for row in closed if row["callers"] == COMPARED]
    return table(head, (_latency_row(row) for row in rows))


def _latency_row(row: Result) -> list[str]:
    times = [milliseconds(row[name]) for name in ("first_token_p50", "first_token_p99", "gap_p50", "gap_p99")]
    return [
        _name(row["system"]),
        *times,
        f"{row['peak_bytes'] / 2**20:,.0f}",
        f"{row['cpu_seconds_per_1000_tokens']:.2f}",
    ]


def goals(found: Sequence[Result]) -> str:
    rows = (
        [
            goal["what"],
            f"{'at most' if goal['at_most'] else 'at least'} {goal['bound']:g}",
            f"{goal['reached']:.3g}",
            "met" if goal["is_met"] else "**missed**",
        ]
        for goal in found
        if goal["reached"] is not None
    )
    return table(["goal", "bound", "reached", ""], rows)


def arrivals(loops: Sequence[Result]) -> str:
    head = ["system", "of its capacity", "requests/s", "first token p50, ms", "p99", "between tokens p50, ms", "p99"]
    times = ("first_token_p50", "first_token_p99", "gap_p50", "gap_p99")
    return table(
        head,
        (
            [_name(loop["system"]), f"{loop['share']:.0%}", f"{loop['requests_per_second']:.2f}"]
            + [milliseconds(loop[name]) for name in times]
            for loop in loops
        ),
    )


def steps(found: Mapping[str, Sequence[Result]]) -> str:
    head = ["precision", "rows", "context", "a decode step, ms"]
    return table(
        head,
        (
            [precision, str(step["rows"]), str(step["context"]), milliseconds(step["seconds"])]
            for precision, each in found.items()
            for step in each
        ),
    )


def attention(found: Sequence[Result]) -> str:
    head = ["rows and context", "attention of a step, ms", "row by row", "a plain read of its keys and values"]
    times = ("seconds", "row_by_row_seconds", "read_seconds")
    return table(
        head, ([f"{each['rows']} x {each['context']}", *(milliseconds(each[name]) for name in times)] for each in found)
    )


def sampling(rows: Sequence[Result], logits: str) -> str:
    head = ["16 rows, each asks for", "ms", "of a decode step", "goal: at most"]
    return table(
        head,
        (
            [row["asked"], f"{row['ms']:.1f}", f"{row['share']:.1%}", _limit(row)]
            for row in rows
            if row["logits"] == logits
        ),
    )


def _limit(row: Result) -> str:
    if row["limit"] is None:
        return ""
    return f"{row['limit']:.0%}, {'met' if row['share'] <= row['limit'] else '**missed**'}"


def front_end(rows: Sequence[Result]) -> str:
    head = ["streams over gRPC", "tokens/s offered", "achieved", "us a token", "tokens a message"]
    return table(
        head,
        (
            [
                str(row["streams"]),
                f"{row['offered']:,}",
                f"{row['achieved']:,.0f}",
                f"{row['us_per_token']:.2f}",
                f"{row['tokens_per_message']:.1f}",
            ]
            for row in rows
            if row["reader"] == "gRPC"
        ),
    )


def training(rows: Sequence[Result]) -> str:
    head = ["data and vocabulary", "way", "tokens/s", "to joined", "padding", "held-out nats/token"]
    return table(
        head,
        (
            [
                f"{row['data']}, {row['setting']['vocabulary']:,}",
                row["way"],
                f"{row['tokens_per_second']:,.0f}",
                f"{row['ratio']:.2f}",
                f"{row['padding_share']:.1%}",
                f"{row['nats_per_token']:.4f}",
            ]
            for row in rows
        ),
    )


def _name(system: str) -> str:
    return f"**{system}**" if system.startswith(OURS) else system

"""The figures of a run as lines for a person."""

from collections.abc import Iterator, Mapping, Sequence

from rhapsode_client.cli.bench.figures import SHARES, Figures, Latency
from rhapsode_client.cli.bench.objectives import Verdict, is_latency

_LATE = 0.01
_BAR = 40
_WIDTH = 10


def report(figures: Figures, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Rates, latencies, histograms, errors and objectives."""
    yield from _rates(figures)
    latencies = {
        "to the first token": figures.first_token,
        "between tokens": figures.between_tokens,
        "total": figures.total,
    }
    yield from _percentiles(latencies)
    yield from _histogram("to the first token, ms", figures.first_token)
    yield from _histogram("total, ms", figures.total)
    yield from _errors(figures)
    yield from _verdicts(verdicts)
    if figures.latest_send > _LATE:
        yield ""
        yield f"a request was sent {figures.latest_send * 1000:,.0f} ms after it was due: this machine cannot keep up"


def _rates(figures: Figures) -> Iterator[str]:
    by = ", ".join(f"{name} ({count:,})" for name, count in figures.answered_by.items())
    yield f"answered by   {by or 'none'}"
    yield f"requests      {figures.requests:,} in {figures.seconds:,.1f} s, {figures.failed:,} failed"
    yield f"completed     {figures.completed_per_second:,.1f}/s"
    yield f"tokens        {figures.tokens:,}, {figures.tokens_per_second:,.1f}/s"


def _percentiles(latencies: Mapping[str, Latency]) -> Iterator[str]:
    label = max(map(len, latencies)) + 2
    yield ""
    yield "ms".ljust(label) + "".join(share.rjust(_WIDTH) for share in SHARES)
    for name, latency in latencies.items():
        cells = [_milliseconds(latency.percentiles.get(share)) for share in SHARES]
        yield name.ljust(label) + "".join(cell.rjust(_WIDTH) for cell in cells)


def _histogram(title: str, latency: Latency) -> Iterator[str]:
    if not latency.histogram:
        return
    yield ""
    yield title
    most = max(bucket.count for bucket in latency.histogram)
    for bucket in latency.histogram:
        bar = _bar(bucket.count / most)
        low, high = _milliseconds(bucket.low), _milliseconds(bucket.high)
        yield f"{low:>{_WIDTH}} - {high:>{_WIDTH}}  {bar}{' ' if bar else ''}{bucket.count:,}"


def _bar(share: float) -> str:
    """A row of blocks, the last in eighths; nothing only for none."""
    eighths = max(1, round(share * _BAR * 8)) if share else 0
    whole, rest = divmod(eighths, 8)
    return "\u2588" * whole + (chr(0x2590 - rest) if rest else "")


def _errors(figures: Figures) -> Iterator[str]:
    if figures.errors:
        yield ""
        yield "errors"
    for name, failures in figures.errors.items():
        yield f"  {failures.count:,} {name}: {failures.example}"


def _verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if verdicts:
        yield ""
        yield "objectives"
    for verdict in verdicts:
        yield f"  {'met   ' if verdict.met else 'MISSED'}  {verdict.objective}, measured {_measured(verdict)}"


def _measured(verdict: Verdict) -> str:
    name = verdict.objective.partition("=")[0]
    if verdict.measured is None:
        return "nothing"
    if is_latency(name):
        return f"{_milliseconds(verdict.measured)} ms"
    return f"{verdict.measured:.2%}" if name == "error_rate" else f"{verdict.measured:,.1f}"


def _milliseconds(seconds: float | None) -> str:
    """With three digits that count, or all before the point."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"

"""`compare`: two versions of a model side by side: numbers with intervals, configuration, samples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rhapsode_contract.model_directory import ModelFolder
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..evaluation.bootstrap import Interval, difference_interval
from ..evaluation.record import flatten
from ..publish.printable import printable
from .preferences import Preference, preference_line, read_preferences
from .records import VersionRecords, number, read_records

_METRICS = {
    "bits per byte": ("bits_per_byte",),
    "perplexity per token": ("perplexity",),
    "canary text, bits per byte": ("canary_bits_per_byte",),
    "distinct-1": ("quality", "distinct_1"),
    "distinct-2": ("quality", "distinct_2"),
    "distinct-3": ("quality", "distinct_3"),
    "repetition": ("quality", "repetition"),
    "empty": ("quality", "empty"),
    "words": ("quality", "words"),
    "lines": ("form", "lines"),
    "words per line": ("form", "words_per_line"),
    "characters per line": ("form", "characters_per_line"),
    "rhyme": ("form", "rhyme"),
    "BLEU": ("overlap", "bleu"),
    "chrF": ("overlap", "chrf"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of both versions, with the bounds of its interval where it has one; None: not measured."""

    name: str
    a: float | None
    b: float | None
    a_bounds: tuple[float, float] | None
    b_bounds: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A field of the recipe that differs; None: this version does not have it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePair:
    """What both versions made of one prompt with one seed."""

    prompt: str
    seed: int
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`difference`: bits per byte of b minus a, paired by document; None when they were not measured on the same."""

    model: str
    a: int
    b: int
    metrics: tuple[Metric, ...]
    difference: Interval | None
    settings: tuple[Setting, ...]
    samples: tuple[SamplePair, ...]
    ratings: tuple[Preference, ...]


def compare(folder: ModelFolder, a: int, b: int) -> Comparison:
    """Raises NoSuchModel, NoSuchVersion and SourceError (a record cannot be understood)."""
    first, second = (read_records(folder.version_path(version)) for version in (a, b))
    return Comparison(
        model=folder.name,
        a=a,
        b=b,
        metrics=tuple(_metrics(first, second)),
        difference=_difference(first, second),
        settings=tuple(_settings(first, second)),
        samples=tuple(_samples(first, second)),
        ratings=tuple(read_preferences(folder, a, b)),
    )


def _metrics(a: VersionRecords, b: VersionRecords) -> Iterator[Metric]:
    left, right = a.evaluation.get("after", {}), b.evaluation.get("after", {})
    for name, path in _METRICS.items():
        values = number(left, *path), number(right, *path)
        if values != (None, None):
            bounds = _bounds(left, *path), _bounds(right, *path)
            yield Metric(name=name, a=values[0], b=values[1], a_bounds=bounds[0], b_bounds=bounds[1])


def _bounds(tree: Mapping[str, Any], *path: str) -> tuple[float, float] | None:
    interval = (*path[:-1], f"{path[-1]}_interval")
    low, high = number(tree, *interval, "low"), number(tree, *interval, "high")
    return None if low is None or high is None else (low, high)


def _difference(a: VersionRecords, b: VersionRecords) -> Interval | None:
    if not a.likelihoods or a.documents_sha256 != b.documents_sha256:
        return None
    return difference_interval(b.likelihoods, a.likelihoods)


def _settings(a: VersionRecords, b: VersionRecords) -> Iterator[Setting]:
    left, right = (
        flatten({"recipe": records.lineage.get("recipe"), **records.lineage.get("config", {})}) for records in (a, b)
    )
    for name in sorted({*left, *right}):
        if left.get(name) != right.get(name):
            yield Setting(name=name, a=left.get(name), b=right.get(name))


def _samples(a: VersionRecords, b: VersionRecords) -> Iterator[SamplePair]:
    """Only what both made of the same prompt, seed and place among the draws."""
    others = _drawn(b)
    for key, text in _drawn(a).items():
        if key in others:
            yield SamplePair(prompt=key[0], seed=key[1], a=text, b=others[key])


def _drawn(records: VersionRecords) -> dict[tuple[str, int, int], str]:
    return {
        (sample["prompt"], sample["seed"], sample.get("index", 0)): sample["text"]
        for sample in records.samples
        if sample.get("stage") == "after"
    }


def render_comparison(comparison: Comparison) -> Group:
    """Tables for the screen; every text of a model or a recipe is shown as it is, never as markup."""
    parts: list[RenderableType] = [_metric_table(comparison), _difference_line(comparison)]
    parts += [preference_line(each) for each in comparison.ratings]
    if comparison.settings:
        parts.append(_setting_table(comparison))
    parts += [_sample_table(comparison, pair) for pair in comparison.samples]
    return Group(*parts)


def _table(comparison: Comparison, title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", expand=False)
    for heading in ("", f"version {comparison.a}", f"version {comparison.b}"):
        table.add_column(heading, overflow="fold")
    return table


def _metric_table(comparison: Comparison) -> Table:
    table = _table(comparison, f"{comparison.model}: held-out text and samples")
    for metric in comparison.metrics:
        table.add_row(Text(metric.name), _value(metric.a, metric.a_bounds), _value(metric.b, metric.b_bounds))
    return table


def _value(value: float | None, bounds: tuple[float, float] | None) -> Text:
    if value is None:
        return Text("not measured", style="dim")
    return Text(f"{value:.4g}" if bounds is None else f"{value:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f})")


def _difference_line(comparison: Comparison) -> Text:
    difference, names = comparison.difference, f"version {comparison.b} minus version {comparison.a}"
    if difference is None:
        return Text(f"{names}: not measured on the same held-out documents, so no paired difference")
    better = "better" if difference.high < 0 else "worse" if difference.low > 0 else "no clear difference"
    return Text(
        f"{names}: {difference.estimate:+.4f} bits per byte, {difference.confidence:.0%} interval "
        f"{difference.low:+.4f} to {difference.high:+.4f}: {better}"
    )


def _setting_table(comparison: Comparison) -> Table:
    table = _table(comparison, "Configuration: what differs")
    for setting in comparison.settings:
        cells = (Text("absent", style="dim") if value is None else Text(str(value)) for value in (setting.a, setting.b))
        table.add_row(Text(setting.name), *cells)
    return table


def _sample_table(comparison: Comparison, pair: SamplePair) -> Table:
    table = Table(title=Text(f"{printable(pair.prompt)!r}, seed {pair.seed}"), title_justify="left")
    for version in (comparison.a, comparison.b):
        table.add_column(f"version {version}", ratio=1, overflow="fold")
    table.add_row(*(Text.assemble((printable(pair.prompt), "bold"), printable(text)) for text in (pair.a, pair.b)))
    return table

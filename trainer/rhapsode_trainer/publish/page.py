"""report.html of a version: one file without any request to elsewhere, for light and dark screens.

Everything comes from the records of the version, so the page of an old version can be made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..evaluation.record import flatten
from .curve import curve_of, draw_curve
from .printable import printable

_TEMPLATE = "page.html.jinja"
_STAGES = {"before": "before training", "champion": "champion", "after": "after training"}
_METRICS = (
    ("bits per byte", "bits_per_byte", 4),
    ("perplexity per token", "perplexity", 2),
    ("canary text, bits per byte", "canary_bits_per_byte", 4),
    ("distinct-1", "quality.distinct_1", 3),
    ("distinct-2", "quality.distinct_2", 3),
    ("distinct-3", "quality.distinct_3", 3),
    ("share of repeated 4-grams", "quality.repetition", 3),
    ("share of empty texts", "quality.empty", 3),
    ("words in a text", "quality.words", 1),
    ("lines in a text", "form.lines", 1),
    ("words in a line", "form.words_per_line", 1),
    ("characters in a line", "form.characters_per_line", 1),
    ("share of rhyming lines", "form.rhyme", 3),
    ("BLEU", "overlap.bleu", 2),
    ("chrF", "overlap.chrf", 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows: the records as they are written to the version, and the log of training."""

    name: str
    description: str
    evaluation: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]


def report_page(page: Page) -> str:
    """The whole HTML document; every text is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)

    environment = Environment(
        autoescape=True, finalize=shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((resources.files(__package__) / _TEMPLATE).read_text(encoding="utf-8"))
    stages = [stage for stage in _STAGES if page.evaluation.get(stage)]
    lineage = {name: value for name, value in page.lineage.items() if name != "config"}
    return template.render(
        name=page.name,
        description=page.description,
        data=page.evaluation.get("data", {}),
        stages=[_STAGES[stage] for stage in stages],
        headline=_headline(page.evaluation, stages),
        metrics=_metrics([page.evaluation[stage] for stage in stages]),
        verdict=page.evaluation.get("verdict"),
        rules=_rules(page.evaluation),
        curve=Markup(draw_curve(curve_of(page.log))) if page.log else None,
        groups=_groups(page.samples),
        tables={"Configuration": flatten(page.lineage.get("config", {})), "Lineage": flatten(lineage)},
    )


def _headline(evaluation: Mapping[str, Any], stages: Sequence[str]) -> list[dict[str, str]]:
    """Bits per byte of each model, large."""
    return [
        {
            "label": _STAGES[stage],
            "value": _number(evaluation[stage].get("bits_per_byte"), 3),
            "interval": _interval(evaluation[stage].get("bits_per_byte_interval"), 3),
        }
        for stage in stages
    ]


def _metrics(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of the table; a number that no model has is left out."""
    flat = [flatten(model) for model in models]
    return [
        (label, [_number(model.get(name), digits) for model in flat])
        for label, name, digits in _METRICS
        if any(name in model and model[name] is not None for model in flat)
    ]


def _rules(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    rules = (evaluation.get("verdict") or {}).get("rules", [])
    return [{**rule, "value": _short(rule["value"]), "bound": _bound(rule)} for rule in rules]


def _bound(rule: Mapping[str, Any]) -> str:
    low, high = rule["low"], rule["high"]
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"{'below' if rule['strict'] else 'at most'} {high:g}" if low is None else f"at least {low:g}"


def _groups(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples of the same prompt, seed and place side by side, in the order of the stages."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for sample in samples:
        key = sample["prompt"], sample["seed"], sample.get("index", 0)
        group = groups.setdefault(key, {"prompt": key[0], "seed": key[1], "index": key[2], "texts": {}})
        group["texts"][sample["stage"]] = sample["text"]
    return [
        {
            **group,
            "texts": [(label, group["texts"][stage]) for stage, label in _STAGES.items() if stage in group["texts"]],
        }
        for group in groups.values()
    ]


def _interval(interval: Mapping[str, Any] | None, digits: int) -> str:
    if not interval or interval["low"] is None or interval["high"] is None:
        return ""
    return f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f} ({interval['confidence']:.0%})"


def _number(value: float | None, digits: int) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,.{digits}f}"


def _short(value: float | None) -> str:
    """Four decimal places at most."""
    text = _number(value, 4)
    return text.rstrip("0").rstrip(".") if "." in text else text

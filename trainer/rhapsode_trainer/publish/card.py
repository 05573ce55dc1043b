"""The model card: README.md of a version, with the front matter that Hugging Face tools read.

`model-index` is the form in which the hub keeps evaluation results; `huggingface_hub` parses it.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from ..config import Recipe

_FRONT = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["rhapsode"]}
_METRICS = {"bits_per_byte": "Bits per byte", "perplexity": "Perplexity per token"}
_STAGES = {"before": "before training", "champion": "champion until then", "after": "after training"}


def trained_card(name: str, recipe_name: str, recipe: Recipe, evaluation: Mapping[str, Any]) -> str:
    """The card of a model that a recipe made; `evaluation` is what evaluation.json holds."""
    data, after = evaluation["data"], evaluation["after"]
    rows = [_row(label, evaluation[stage]) for stage, label in _STAGES.items() if evaluation.get(stage)]
    xz = evaluation.get("xz_bits_per_byte")
    if xz is not None:
        rows.append(f"| `xz -9e` with the training text as context | {xz:.3f} | |")
    table = "\n".join(rows)
    return f"""{_front_matter(_model_index(name, recipe_name, after))}
# {name}

{recipe.description}

Trained by the recipe `{recipe_name}` on {data["train_documents"]} documents; measured on
{data["held_out_documents"]} held-out documents ({after["bytes"]} bytes), each token predicted once.

| | bits per byte | perplexity per token |
|---|---|---|
{table}

{_verdict(evaluation.get("verdict"))}`lineage.json` holds the resolved recipe, the hash of the data and the versions
of the software.
"""


def imported_card(name: str, architecture: str, parameters: int, dtype: str) -> str:
    """The card of a model that was published as it was found."""
    return f"""{_front_matter({})}
# {name}

An existing model, published as it was found: {architecture}, {parameters:,} parameters, {dtype}. Nothing was trained
and nothing was measured. `lineage.json` holds the hashes of the files that it was made from.
"""


def _row(label: str, numbers: Mapping[str, Any]) -> str:
    bits, perplexity = numbers["bits_per_byte"], numbers["perplexity"]
    bits_text = "not finite" if bits is None else f"{bits:.3f}"
    perplexity_text = "not finite" if perplexity is None else f"{perplexity:.1f}"
    interval = numbers.get("bits_per_byte_interval") or {}
    if interval.get("low") is not None and interval.get("high") is not None:
        bits_text += f" ({interval['low']:.3f} to {interval['high']:.3f})"
    return f"| {label} | {bits_text} | {perplexity_text} |"


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    """A paragraph on the gate."""
    if not verdict:
        return ""
    failed = ", ".join(rule["name"] for rule in verdict["rules"] if not rule["passed"])
    if not failed:
        return f"Its gate passed it by {len(verdict['rules'])} rules.\n\n"
    forced = " It was published by force." if verdict["forced"] else ""
    return f"Its gate refused it: {failed}.{forced}\n\n"


def _model_index(name: str, recipe_name: str, after: Mapping[str, Any]) -> dict[str, Any]:
    metrics = [
        {"type": kind, "name": label, "value": after[kind]}
        for kind, label in _METRICS.items()
        if after[kind] is not None
    ]
    if not metrics:
        return {}
    result = {
        "task": {"type": "text-generation", "name": "Text Generation"},
        "dataset": {"type": recipe_name, "name": f"held-out documents of the recipe {recipe_name}"},
        "metrics": metrics,
    }
    return {"model-index": [{"name": name, "results": [result]}]}


def _front_matter(results: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump({**_FRONT, **results}, sort_keys=True)}---\n"

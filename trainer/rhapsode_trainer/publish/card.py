"""The model card: README.md of a version, with the front matter that Hugging Face tools read."""

from collections.abc import Mapping
from typing import Any

import yaml

from ..config import Recipe

_FRONT = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["rhapsode"]}


def trained_card(name: str, recipe_name: str, recipe: Recipe, evaluation: Mapping[str, Any]) -> str:
    """The card of a model that a recipe made."""
    before, after = evaluation["before"], evaluation["after"]
    return f"""{_front_matter()}
# {name}

{recipe.description}

Trained by the recipe `{recipe_name}` on {evaluation["data"]["train_documents"]} documents; measured on
{evaluation["data"]["held_out_documents"]} held-out documents ({after["bytes"]} bytes), each token predicted once.

| | bits per byte | perplexity per token |
|---|---|---|
| before training | {before["bits_per_byte"]:.3f} | {before["perplexity"]:.1f} |
| after training | {after["bits_per_byte"]:.3f} | {after["perplexity"]:.1f} |
| `xz -9e` with the training text as context | {evaluation["xz_bits_per_byte"]:.3f} | |

`lineage.json` holds the resolved recipe, the hash of the data and the versions of the software.
"""


def imported_card(name: str, architecture: str, parameters: int, dtype: str) -> str:
    """The card of a model that was published as it was found."""
    return f"""{_front_matter()}
# {name}

An existing model, published as it was found: {architecture}, {parameters:,} parameters, {dtype}. Nothing was trained
and nothing was measured. `lineage.json` holds the hashes of the files that it was made from.
"""


def _front_matter() -> str:
    return f"---\n{yaml.safe_dump(_FRONT, sort_keys=True)}---\n"

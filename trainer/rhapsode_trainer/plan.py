"""The rows of a whole run in their order, and where its epochs end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count
from pathlib import Path

from transformers import TrainingArguments

from .config import Recipe
from .data.encoding import Encoded
from .data.rows import PassRows, Row, rows_of_pass
from .training.arguments import half_precision, rows_needed, rows_per_step, training_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`epoch_ends` are steps; `padding_share` is the share of all places that hold padding. `tokens_per_step` counts
    the other places, on the average of all steps."""

    rows: Sequence[Row]
    arguments: TrainingArguments
    epoch_ends: tuple[int, ...]
    padding_share: float
    tokens_per_step: float


def plan_training(recipe: Recipe, encode: Callable[[], list[Encoded]], *, pad: int, output_dir: Path) -> Plan:
    """Passes over the documents, each in an order of its own, for the recipe's epochs or steps. Raises ConfigError."""
    passes: list[PassRows] = []
    arguments = _arguments(recipe, steps=recipe.training.arguments.get("max_steps", 1), output_dir=output_dir)
    for epoch in count():
        enough = epoch == recipe.training.epochs if recipe.training.epochs else _rows(passes) >= rows_needed(arguments)
        if enough:
            break
        passes.append(rows_of_pass(encode(), recipe.rows, pad=pad, seed=recipe.seed, epoch=epoch))
    per_step = rows_per_step(arguments)
    if recipe.training.epochs:
        arguments = _arguments(recipe, steps=-(-_rows(passes) // per_step), output_dir=output_dir)
    rows = [row for one in passes for row in one][: rows_needed(arguments)]
    ends = [-(-total // per_step) for total in accumulate(len(one) for one in passes)]
    places = sum(len(one) * one.block_size for one in passes)
    padding_share = 1 - sum(one.tokens for one in passes) / places
    return Plan(
        rows=rows,
        arguments=arguments,
        epoch_ends=tuple(end for end in ends if end <= arguments.max_steps),
        padding_share=padding_share,
        tokens_per_step=len(rows) * recipe.rows.block_size * (1 - padding_share) / arguments.max_steps,
    )


def _rows(passes: Sequence[PassRows]) -> int:
    return sum(len(one) for one in passes)


def _arguments(recipe: Recipe, *, steps: int, output_dir: Path) -> TrainingArguments:
    precision = half_precision() if recipe.training.mixed_precision else {}
    arguments = {**recipe.training.arguments, **precision, "max_steps": steps}
    config = replace(recipe.training, epochs=0, arguments=arguments)
    return training_arguments(config, seed=recipe.seed, output_dir=output_dir)

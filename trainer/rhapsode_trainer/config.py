"""Recipes: what to train on what, read from YAML, overridden by `--set a.b=c`, checked before torch is loaded.

The mappings `model`, `training.arguments` and `generation` hold the names of transformers itself (a configuration
class, `TrainingArguments`, `GenerationConfig`); they are checked against those classes where they are used.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib import resources
from typing import Any, get_origin, get_type_hints

import yaml

from .errors import ConfigError

_RECIPES = "recipes"


def _require(condition: bool, field: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"{field}: {value!r} {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Documents: a JSONL file, one object a line. `held_out` is the share of documents that training never sees."""

    path: str
    text_field: str
    held_out: float
    split_salt: str

    def __post_init__(self) -> None:
        _require(0 < self.held_out < 1, "held_out", self.held_out, "is not between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """Byte-level BPE. `dropout` is the share of merges skipped at random in training (Provilkov et al. 2020)."""

    vocab_size: int
    dropout: float

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 257, "vocab_size", self.vocab_size, "is less than 256 bytes and one special token")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "is not between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Rows of `block_size` tokens; `arguments` are fields of `TrainingArguments`.

    `optimizer` is `muon`, or `trainer` for the one that `TrainingArguments.optim` names (AdamW by default).
    """

    block_size: int
    optimizer: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        _require(self.block_size >= 2, "block_size", self.block_size, "is less than 2 tokens")
        _require(self.optimizer in ("muon", "trainer"), "optimizer", self.optimizer, "is neither muon nor trainer")
        steps = self.arguments.get("max_steps")
        _require(isinstance(steps, int) and steps >= 1, "arguments.max_steps", steps, "is not a positive integer")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Documents longer than the context are scored in windows that advance by `stride` tokens."""

    stride: int
    batch_size: int

    def __post_init__(self) -> None:
        _require(self.stride >= 1, "stride", self.stride, "is less than 1")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "is less than 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """The text that is generated before and after training, to be looked at."""

    prompt: str
    seed: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        _require(self.prompt != "", "prompt", self.prompt, "is empty")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "is less than 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a run does."""

    description: str
    seed: int
    data: DataConfig
    tokenizer: TokenizerConfig
    model: Mapping[str, Any]
    training: TrainingConfig
    evaluation: EvaluationConfig
    sample: SampleConfig
    generation: Mapping[str, Any]

    def __post_init__(self) -> None:
        _require(isinstance(self.model.get("model_type"), str), "model.model_type", self.model.get("model_type"), "")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "is not an unsigned 32-bit number")

    def as_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain data, as it is recorded with a version."""
        return asdict(self)


def recipe_names() -> list[str]:
    """The recipes that the package ships, sorted."""
    folder = resources.files(__package__) / _RECIPES
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The shipped recipe `name` with overrides of the form `a.b=value` applied in order. Raises ConfigError."""
    if name not in recipe_names():
        raise ConfigError(f"no recipe {name!r}; there are: {', '.join(recipe_names())}")
    source = resources.files(__package__) / _RECIPES / f"{name}.yaml"
    tree = yaml.safe_load(source.read_text(encoding="utf-8"))
    for override in overrides:
        _apply(tree, override)
    recipe: Recipe = _build(Recipe, tree, "")
    return recipe


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one value in the tree of a recipe. A key that the recipe does not have is a mistake, except in the mappings
    that belong to transformers, whose names are checked where they are used."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r}: write it as a.b=value")
    *parents, leaf = key.split(".")
    node: Any = tree
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    foreign = key.startswith(("model.", "training.arguments.", "generation."))
    if not isinstance(node, dict) or (leaf not in node and not foreign):
        known = ", ".join(node) if isinstance(node, dict) else ", ".join(tree)
        raise ConfigError(f"--set {key}: the recipe has no such field; there are: {known}")
    node[leaf] = _parse(key, text)


def _parse(key: str, text: str) -> Any:
    """A YAML value. YAML 1.1 takes 3e-3 for a string; everybody who types it means a number."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from None
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _build(kind: type, tree: Any, path: str) -> Any:
    """An object of a config class from plain data; every complaint names the field by its full path."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}: expected fields, found {tree!r}")
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in [*names, *tree]:
        if name not in tree or name not in hints:
            raise ConfigError(f"{_join(path, name)}: {'missing' if name in hints else 'unknown field'}")
    values = {name: _convert(hints[name], tree[name], _join(path, name)) for name in names}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(_join(path, str(error))) from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, path)  # type: ignore[arg-type]
    wanted = Mapping if get_origin(hint) is not None else int | float if hint is float else hint
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise ConfigError(f"{path}: {value!r} is not of type {getattr(hint, '__name__', 'mapping')}")
    return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

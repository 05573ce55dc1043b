"""Recipes: what to train on what, read from YAML, overridden by `--set a.b=c`, checked before torch is loaded.

The mappings `model`, `training.arguments` and `generation` hold the names of transformers itself (a configuration
class, `TrainingArguments`, `GenerationConfig`); they are checked against those classes where they are used.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib import resources
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from rhapsode_contract.postprocess import Pipeline

from .data.settings import DataConfig, RowsConfig
from .data.settings import require as _require
from .errors import ConfigError
from .gate import GateConfig
from .lora import LoraSettings
from .sweep import parse_space

_RECIPES = "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """The model that training starts from: a folder, or a model of the Hugging Face hub pinned by `revision`.

    `pad_token` is added for training where the rows need one that is not the end of text; it is not published.
    """

    model: str
    revision: str = ""
    pad_token: str = ""

    def __post_init__(self) -> None:
        _require(self.model != "", "model", self.model, "is empty")


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
    """`arguments` are fields of `TrainingArguments`. How long: its `max_steps`, or `epochs` passes over the documents.

    `optimizer` is `muon`, or `trainer` for the one that `TrainingArguments.optim` names (AdamW by default).
    A checkpoint is saved every `save_minutes`, and every `save_steps` if that is not 0. `mixed_precision` is bf16, or
    fp16 on older CUDA devices; on a CPU it is float32. `compile` runs the layers through torch.compile: `always`,
    `never`, or on CUDA where the run is long enough for that (`auto`).
    """

    optimizer: str
    arguments: Mapping[str, Any]
    epochs: int = 0
    save_minutes: float = 10.0
    save_steps: int = 0
    mixed_precision: bool = False
    compile: str = "auto"

    def __post_init__(self) -> None:
        _require(self.compile in ("auto", "never", "always"), "compile", self.compile, "is not auto, never or always")
        _require(self.optimizer in ("muon", "trainer"), "optimizer", self.optimizer, "is neither muon nor trainer")
        _require(self.epochs >= 0, "epochs", self.epochs, "is negative")
        _require(self.save_steps >= 0, "save_steps", self.save_steps, "is negative")
        _require(self.save_minutes > 0, "save_minutes", self.save_minutes, "is not positive")
        steps = self.arguments.get("max_steps")
        if self.epochs:
            _require(steps is None, "arguments.max_steps", steps, "is given, and epochs too")
        else:
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
    """Texts that are generated before and after training, to be looked at and measured.

    `prompt` is shown on the screen; `more_prompts` and `count` continuations of each go into the records. So many
    `held_out_prompts` are answered too, and compared with the held-out texts by BLEU and chrF.
    """

    prompt: str
    seed: int
    max_new_tokens: int
    more_prompts: tuple[str, ...] = ()
    count: int = 1
    held_out_prompts: int = 0

    def __post_init__(self) -> None:
        _require(self.prompt != "", "prompt", self.prompt, "is empty")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "is less than 1")
        _require(self.count >= 1, "count", self.count, "is less than 1")

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt, *self.more_prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a run does.

    Either `base` is trained further, or a model is made from `model` and a tokenizer from `tokenizer`. `search` says
    what a sweep tries for which field: {low, high, log} or {choices}.
    """

    description: str
    seed: int
    data: DataConfig
    rows: RowsConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    sample: SampleConfig
    gate: GateConfig
    generation: Mapping[str, Any]
    base: BaseConfig | None = None
    tokenizer: TokenizerConfig | None = None
    model: Mapping[str, Any] | None = None
    postprocess: tuple[str, ...] = ()
    lora: LoraSettings | None = None
    search: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "is not an unsigned 32-bit number")
        if self.base is None:
            kind = (self.model or {}).get("model_type")
            _require(isinstance(kind, str), "model.model_type", kind, "is not the name of an architecture")
            _require(self.tokenizer is not None, "tokenizer", None, "is needed where there is no base")
        else:
            _require(self.model is None, "model", self.model, "is given, and base too")
            _require(self.tokenizer is None, "tokenizer", self.tokenizer, "is given, and base has its own")
        if self.search is not None:
            parse_space(self.search)
        try:
            Pipeline(self.postprocess)
        except ValueError as error:
            raise ValueError(f"postprocess: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain data, as it is recorded with a version."""
        tree: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return tree


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
    return recipe_from(tree)


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """The recipe that plain data describes, such as what a version has on record. Raises ConfigError."""
    recipe: Recipe = _build(Recipe, tree, "")
    return recipe


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one value in the tree of a recipe; `_build` complains of what no recipe can have."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r}: write it as a.b=value")
    *parents, leaf = key.split(".")
    node: Any = tree
    for parent in parents:
        node = _child(node, parent)
    if isinstance(node, list) and leaf.isdecimal() and int(leaf) < len(node):
        node[int(leaf)] = _parse(key, text)
    elif isinstance(node, dict):
        node[leaf] = _parse(key, text)
    else:
        raise ConfigError(f"--set {key}: the recipe has no such field; there are: {', '.join(tree)}")


def _child(node: Any, name: str) -> Any:
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        return node[int(name)]
    return node.get(name) if isinstance(node, dict) else None


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
    for name in tree:
        if name not in hints:
            raise ConfigError(f"{_join(path, name)}: unknown field")
    for field in fields(kind):
        if field.name not in tree and field.default is MISSING:
            raise ConfigError(f"{_join(path, field.name)}: missing")
    values = {name: _convert(hints[name], value, _join(path, name)) for name, value in tree.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(_join(path, str(error))) from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in options:
        return None
    hint = next(option for option in options if option is not NoneType)
    if is_dataclass(hint):
        return _build(hint, value, path)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        return _convert_list(get_args(hint)[0], value, path)
    wanted = Mapping if get_origin(hint) is not None else int | float if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path}: {value!r} is not of type {getattr(hint, '__name__', 'mapping')}")
    return value


def _convert_list(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{path}: {value!r} is not a list")
    return tuple(_convert(hint, item, f"{path}.{index}") for index, item in enumerate(value))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
